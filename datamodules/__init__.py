"""Recordings and labels in, shards and batches of chunks out."""
