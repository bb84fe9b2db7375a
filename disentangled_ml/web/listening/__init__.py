"""Listening tests: their questions, the drawing of these, a session of raters, and the file of their answers."""
