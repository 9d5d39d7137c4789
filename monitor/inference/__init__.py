"""From segments to predictions: the supervisor, the inference worker it keeps alive, and the engines."""
