"""One reader per data set; each returns a corpus, which streams track records."""
