"""What a training is told goes through a pipe unchanged, and is refused where it broke off."""

import io
from datetime import UTC, datetime

import numpy as np
import pytest

from model.errors import FormatError
from model.evidence import Evidence, HeardWith, Kind, read_all, read_evidence, write_evidence
from model.types import Emotion

PIECES = [
    Evidence(7, datetime(2026, 7, 14, 8, tzinfo=UTC), np.arange(-500, 500, dtype=np.int16), Emotion.SAD, Kind.CORRECTION, Emotion.FEAR),
    Evidence(9, datetime(2026, 7, 15, 8, tzinfo=UTC), np.full(3, 10, np.int16), Emotion.HAPPY, Kind.CHECKIN, Emotion.NEUTRAL, 0.2),
]


def written(reference: bytes | None = None, prior: str = "everyday") -> bytes:
    file = io.BytesIO()
    write_evidence(file, PIECES, HeardWith(reference, prior))
    return file.getvalue()


def test_evidence_arrives_as_it_was_sent() -> None:
    for sent, got in zip(PIECES, read_evidence(io.BytesIO(written())), strict=True):
        assert np.array_equal(sent.pcm, got.pcm)
        for name in ("segment", "at", "emotion", "kind", "shown", "weight"):
            assert getattr(sent, name) == getattr(got, name)


@pytest.mark.parametrize("reference", [None, b"", b"null\n" * 300])
def test_the_reference_of_the_voice_and_the_prior_go_before_it(reference: bytes | None) -> None:
    got, pieces = read_all(io.BytesIO(written(reference, "balanced")))
    assert got == HeardWith(reference, "balanced")
    assert [one.segment for one in pieces] == [7, 9]
    assert [one.segment for one in read_evidence(io.BytesIO(written(reference)))] == [7, 9]


def test_a_reference_that_broke_off_or_is_far_too_long_is_refused() -> None:
    for sent in (written(b"x" * 100)[:60], _headed(2_000_000) + b"x" * 2_000_000 + b"null\n", _headed(-1) + b"null\n"):
        with pytest.raises(FormatError, match="nothing was learned"):
            read_all(io.BytesIO(sent))


def _headed(size: int) -> bytes:
    return b'{"prior": "everyday", "reference": %d}\n' % size


@pytest.mark.parametrize("kept", [0, 10, 400, -6, -2])
def test_what_broke_off_is_refused(kept: int) -> None:
    with pytest.raises(FormatError, match="nothing was learned"):
        list(read_evidence(io.BytesIO(written()[:kept])))


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"samples": 3,', b'"samples": 0,'), (b'"S"', b'"X"'), (b"0.2", b"1.2"), (b"checkin", b"rumour"), (b"everyday", b"sundays")],
)
def test_nonsense_is_refused(old: bytes, new: bytes) -> None:
    with pytest.raises(FormatError, match="damaged"):
        list(read_evidence(io.BytesIO(written().replace(old, new))))
