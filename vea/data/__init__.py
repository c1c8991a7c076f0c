"""Data: samples, shards, loaders, transforms, the synthetic generator."""
