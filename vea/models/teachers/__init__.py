"""Frozen teachers: CLIP, two aligned towers, and what they share."""
