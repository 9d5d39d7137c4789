"""Scripts that make parts of the documentation: the list of commands, and the picture of the dashboard."""
