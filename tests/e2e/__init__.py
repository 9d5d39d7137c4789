"""The whole program, as a person or a laboratory runs it."""
