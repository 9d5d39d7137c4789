"""Markdown tables, and what an aim says of a figure. Knows no benchmark."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Markdown lines; floats keep three digits that count."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(_said(cell) for cell in row) + " |" for row in rows]


def _said(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    size = abs(cell)
    return f"{cell:.0f}" if size >= 100 else f"{cell:.1f}" if size >= 10 else f"{cell:.2f}" if size >= 0.1 or not size else f"{cell:.2g}"


@dataclass(frozen=True, slots=True)
class Aim:
    """A figure by its key, and the bound that it is to keep: at least, or at most."""

    what: str
    key: str
    bound: float
    unit: str
    at_least: bool = False

    def row(self, figures: dict[str, float]) -> list[object]:
        """Cells: what, bound, found, verdict."""
        bound = f"{'at least' if self.at_least else 'under'} {self.bound:g} {self.unit}".strip()
        if self.key not in figures:
            return [self.what, bound, "not measured in this run", ""]
        found = figures[self.key]
        reached = found >= self.bound if self.at_least else found < self.bound
        return [self.what, bound, f"{_said(float(found))} {self.unit}".strip(), "reached" if reached else "**missed**"]
