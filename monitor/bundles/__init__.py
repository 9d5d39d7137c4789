"""Bundles: the registry of the one in use, the library of all, archives, comparison and text."""
