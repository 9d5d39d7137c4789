"""What learns from what: examples, wording, hearing, the three phases and the one loop that they share."""
