"""What a system is worth: asking it, counting, and telling it in figures, pages and pictures."""
