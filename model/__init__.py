"""What turns audio into an answer: encoder, mapper, prompts, language model, and the bundle that holds them together."""
