"""Brings what is shared with a clinic from the timeline to the clinic's PostgreSQL: each row once, and what is forgotten away again."""
