"""Reports of days and periods: their data, their wording, their charts, and one file for each format."""
