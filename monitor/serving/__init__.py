"""One vLLM server for many monitors: how it is started, and the door that every request comes through."""
