"""From encoded bytes to the view that a model sees."""
