"""What tests share; benchmarks use some of it too."""
