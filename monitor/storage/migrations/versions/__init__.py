"""One file a change, numbered in order. A released one is never edited: the next change is a new file."""
