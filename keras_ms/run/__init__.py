"""One training run: its settings, its steps in order, its folder and what it decides."""
