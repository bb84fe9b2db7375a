"""Tracks that change: curves, novelty and change points, and how well these are found."""
