"""WebDataset tars as others write them, read as they come: no index, no preparation."""
