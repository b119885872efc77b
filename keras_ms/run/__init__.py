"""What one training run decides and says: the choice of its weights, and its closing words."""
