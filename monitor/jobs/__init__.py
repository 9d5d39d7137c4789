"""What the monitor does by itself at set times."""
