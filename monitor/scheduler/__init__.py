"""Scheduled jobs: when each is due, running it, and how it stands."""
