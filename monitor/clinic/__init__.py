"""Sharing with a clinic: its PostgreSQL, roles and audit, reading for clinicians, and the sync that sends what the person shares."""
