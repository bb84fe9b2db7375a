"""Samples and recordings to batches of chunks with their triplets."""
