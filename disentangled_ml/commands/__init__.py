"""The commands of ``disentangled NAME key=value ...``, one file each."""
