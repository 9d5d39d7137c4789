"""What a local day is, what it amounts to, and how it is shown."""
