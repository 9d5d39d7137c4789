"""Plain text tables for terminals and files."""

from collections.abc import Sequence


def section(title: str, rows: Sequence[Sequence[str]], note: str) -> str:
    """A table with its first column to the left and all others to the right, under a title and over a note."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]) for row in rows
    ]
    return "\n".join([title, *(f"  {line}" for line in lines), *(f"  {line}" for line in note.splitlines())])
