"""One night: a bundle learns from what a person said of their own speech, and is let through only if it is shown to be better."""
