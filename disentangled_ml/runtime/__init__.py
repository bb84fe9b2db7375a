"""What runs around a command: its console, run folder, tracking, checkpoints, processes and memory."""
