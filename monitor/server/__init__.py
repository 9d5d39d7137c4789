"""One vLLM server for many monitors: how it is started, and the gateway that every request passes."""
