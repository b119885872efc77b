"""Pair-based losses, one file each, on top of pair_loss.py."""
