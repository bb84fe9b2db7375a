"""Disentangled multidimensional metric learning for music similarity."""
