"""Evaluation: listed triplets, retrieval, neighbours, probes, agreement with people, and tempo."""
