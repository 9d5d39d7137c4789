"""What the person takes away and brings back: everything of theirs in files that other programs read."""
