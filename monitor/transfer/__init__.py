"""Export and import of everything the person owns, in files that other programs read."""
