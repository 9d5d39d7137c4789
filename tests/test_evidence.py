"""What a training is told goes through a pipe unchanged, and is refused where it broke off."""

import io
from datetime import UTC, datetime

import numpy as np
import pytest

from model.errors import FormatError
from model.evidence import Evidence, Kind, read_evidence, write_evidence
from model.types import Emotion

PIECES = [
    Evidence(7, datetime(2026, 7, 14, 8, tzinfo=UTC), np.arange(-500, 500, dtype=np.int16), Emotion.SAD, Kind.CORRECTION, Emotion.FEAR),
    Evidence(9, datetime(2026, 7, 15, 8, tzinfo=UTC), np.full(3, 10, np.int16), Emotion.HAPPY, Kind.CHECKIN, Emotion.NEUTRAL, 0.2),
]


def written() -> bytes:
    file = io.BytesIO()
    write_evidence(file, PIECES)
    return file.getvalue()


def test_evidence_arrives_as_it_was_sent() -> None:
    for sent, got in zip(PIECES, read_evidence(io.BytesIO(written())), strict=True):
        assert np.array_equal(sent.pcm, got.pcm)
        for name in ("segment", "at", "emotion", "kind", "shown", "weight"):
            assert getattr(sent, name) == getattr(got, name)


@pytest.mark.parametrize("kept", [0, 10, 400, -6, -2])
def test_what_broke_off_is_refused(kept: int) -> None:
    with pytest.raises(FormatError, match="nothing was learned"):
        list(read_evidence(io.BytesIO(written()[:kept])))


@pytest.mark.parametrize(
    ("old", "new"), [(b'"samples": 3,', b'"samples": 0,'), (b'"S"', b'"X"'), (b"0.2", b"1.2"), (b"checkin", b"rumour")]
)
def test_nonsense_is_refused(old: bytes, new: bytes) -> None:
    with pytest.raises(FormatError, match="damaged"):
        list(read_evidence(io.BytesIO(written().replace(old, new))))
