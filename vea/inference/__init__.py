"""Use a trained model on pictures."""
