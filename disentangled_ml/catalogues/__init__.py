"""Embedded catalogues: what is on the disk, how it is made, and search in it by weighted conditions."""
