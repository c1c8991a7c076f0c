"""The loaders and the order of data."""
