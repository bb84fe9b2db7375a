"""A folder of music as a manifest: found, read and kept in step; its files are only ever read."""
