"""What differs between two bundles as lines for people. Knows no bundle, only what `comparing` found."""

from collections.abc import Iterator, Mapping
from typing import Any


def lines(found: Mapping[str, Any]) -> list[str]:
    """Section by section; what is equal is not told, but for weights and calibration."""
    first, second = found["versions"]
    told = [f"{first} -> {second}"]
    for title, key in (("Settings", "settings"), ("Calibration", "calibration"), ("Figures", "figures")):
        rows = [f"  {name}: {_text(before)} -> {_text(after)}" for name, (before, after) in found[key].items()]
        told += ["", title, *(rows or ["  no difference"])]
    told += ["", "Files", *_files(found["files"])]
    for part, groups in found["weights"].items():
        told += ["", f"Weights of the {part}, how far they moved in relation to their size", *_moved(groups)]
    return told


def _files(files: Mapping[str, str]) -> Iterator[str]:
    for state in ("same", "differs"):
        names = [name for name, found in files.items() if found == state]
        if names:
            yield f"  {state}: {', '.join(names)}"


def _moved(groups: Mapping[str, float | None] | None) -> Iterator[str]:
    if groups is None:
        yield "  not known: they are gone from one of the two"
        return
    width = max(len(name) for name in groups)
    for name, moved in groups.items():
        yield f"  {name:{width}}  {'other names or shapes' if moved is None else f'{moved:.4f}'}"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value) or "-"
    return str(value)
