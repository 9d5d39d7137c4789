"""From segments to answers: the judging process, its engines, and who keeps it alive."""
