"""Lists of triplets: drawn, read from files, and judged by people."""
