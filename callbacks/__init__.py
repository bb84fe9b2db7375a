"""What is logged and drawn during and after training: one callback per file."""
