"""Tracks that change: curves, novelty and change points, how well these are found, and comparison stretch by stretch."""
