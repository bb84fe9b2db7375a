"""One reader per data set; each gives track records."""
