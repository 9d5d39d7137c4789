"""Studies that need corpora, hours or root; what they found stands in bench/STUDIES.md. Each is run by its own name."""
