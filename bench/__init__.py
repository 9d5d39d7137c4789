"""Benchmarks: each module measures one thing and prints ratios taken side by side in the same run."""
