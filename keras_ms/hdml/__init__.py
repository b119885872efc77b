"""Hardness-aware deep metric learning: synthetic negatives made while the embedder trains."""
