"""Learning from what the person says of their speech: what there is, when it is time, the training itself, and what came of it."""
