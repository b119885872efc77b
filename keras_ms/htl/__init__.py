"""Margins and batches that follow a hierarchy of the classes."""
