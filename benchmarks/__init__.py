"""What measures speed, against peers, in one process."""
