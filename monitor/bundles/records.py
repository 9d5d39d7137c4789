"""What lies in a bundle beside its weights: the decision of the night that made it, and from what it learned, as counts and dates."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from model.decision import DECISION, Decision
from model.manifest import LEARNED_FROM


@dataclass(frozen=True, slots=True)
class Source:
    """From how many pieces of speech a bundle learned, and from when until when they were said, aware UTC."""

    segments: int
    start: datetime
    end: datetime


def decision_of(folder: Path) -> Decision | None:
    """None for a bundle that no night made, and for one that does not say legibly how it was decided."""
    try:
        return Decision.model_validate_json((folder / DECISION).read_bytes())
    except (OSError, ValidationError):
        return None


def source_of(folder: Path) -> Source | None:
    """None for a bundle that learned from nobody here, and for one that does not say legibly from what."""
    try:
        told: dict[str, Any] = json.loads((folder / LEARNED_FROM).read_text(encoding="utf-8"))
        start, end = (datetime.fromisoformat(told[key]).astimezone(UTC) for key in ("from", "to"))
        return Source(len(told["segments"]), start, end)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def learned_here(folder: Path) -> bool:
    """Whether a person's own speech is in its weights."""
    return (folder / LEARNED_FROM).exists()
