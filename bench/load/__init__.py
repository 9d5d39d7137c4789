"""Many monitors on one vLLM server and one PostgreSQL, killed and flooded meanwhile: nothing lost, nothing doubled, nobody starved."""
