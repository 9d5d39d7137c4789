"""Turns segments, coverage and check-ins into days, summaries, shares and trends. Only `timeline_query.py` reads a timeline."""
