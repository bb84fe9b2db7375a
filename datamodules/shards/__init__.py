"""Catalogues to WebDataset shards, and samples back from them."""
