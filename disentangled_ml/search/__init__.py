"""Embedded catalogues: how they are built, stored and searched by weighted conditions."""
