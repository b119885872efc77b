"""Backbones and the embedder built on them."""
