"""Published data sets, as their authors ship them, and the one that is drawn."""
