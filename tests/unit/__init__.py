"""Functions and classes without other processes."""
