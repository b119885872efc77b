"""One training run: the reading of its files, its terminal, what it decides and says."""
