"""Who is similar, which triplets follow, and what is minimised."""
