"""Makes bundles: corpora, curriculum, training loop, evaluation. Knows nothing of the daemon."""
