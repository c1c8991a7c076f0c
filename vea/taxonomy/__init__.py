"""What labels mean: emotions, fields, words, VAD."""
