"""Evaluation: runs systems on corpora, computes metrics, and writes figures, pages and plots."""
