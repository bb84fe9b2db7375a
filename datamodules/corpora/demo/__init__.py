"""The demo corpus: generated pieces with independent, known factors."""
