"""Backbones, the masked autoencoder, fusion, teachers, heads."""
