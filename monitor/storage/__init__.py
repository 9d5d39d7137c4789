"""What is kept, encrypted: the timeline, its keys and its backups."""
