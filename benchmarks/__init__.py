"""Measurements of speed, against peers."""
