"""Parts of a night: labels through the pipe, the rehearsal set, and the folds by time."""

import io
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model.bundle import Bundle, load_llm
from model.bundle_format import REHEARSAL_SET_FILE, find_bundle
from model.emotions import Emotion
from model.errors import BundleError, FormatError
from model.labelled_segment import HeardWith, LabelKind, LabelledSegment, read_all, read_labelled_segments, write_labelled_segments
from tests.support.nights import BEGIN
from train.nightly.training_set import NightlySettings, divide_labels
from train.rehearsal_set import predict_states, read_rehearsal_set

PIECES = [
    LabelledSegment(
        7, datetime(2026, 7, 14, 8, tzinfo=UTC), np.arange(-500, 500, dtype=np.int16), Emotion.SAD, LabelKind.CORRECTION, Emotion.FEAR
    ),
    LabelledSegment(
        9, datetime(2026, 7, 15, 8, tzinfo=UTC), np.full(3, 10, np.int16), Emotion.HAPPY, LabelKind.CHECKIN, Emotion.NEUTRAL, 0.2
    ),
]


def written(reference: bytes | None = None, prior: str = "everyday") -> bytes:
    file = io.BytesIO()
    write_labelled_segments(file, PIECES, HeardWith(reference, prior))
    return file.getvalue()


def test_evidence_arrives_as_it_was_sent() -> None:
    for sent, got in zip(PIECES, read_labelled_segments(io.BytesIO(written())), strict=True):
        assert np.array_equal(sent.pcm, got.pcm)
        for name in ("segment", "at", "emotion", "kind", "shown", "weight"):
            assert getattr(sent, name) == getattr(got, name)


@pytest.mark.parametrize("reference", [None, b"", b"null\n" * 300])
def test_the_reference_of_the_voice_and_the_prior_go_before_it(reference: bytes | None) -> None:
    got, pieces = read_all(io.BytesIO(written(reference, "balanced")))
    assert got == HeardWith(reference, "balanced")
    assert [one.segment for one in pieces] == [7, 9]
    assert [one.segment for one in read_labelled_segments(io.BytesIO(written(reference)))] == [7, 9]


def test_a_reference_that_broke_off_or_is_far_too_long_is_refused() -> None:
    for sent in (written(b"x" * 100)[:60], _headed(2_000_000) + b"x" * 2_000_000 + b"null\n", _headed(-1) + b"null\n"):
        with pytest.raises(FormatError, match="nothing was learned"):
            read_all(io.BytesIO(sent))


def _headed(size: int) -> bytes:
    return b'{"prior": "everyday", "reference": %d}\n' % size


@pytest.mark.parametrize("kept", [0, 10, 400, -6, -2])
def test_what_broke_off_is_refused(kept: int) -> None:
    with pytest.raises(FormatError, match="nothing was learned"):
        list(read_labelled_segments(io.BytesIO(written()[:kept])))


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"samples": 3,', b'"samples": 0,'), (b'"S"', b'"X"'), (b"0.2", b"1.2"), (b"checkin", b"rumour"), (b"everyday", b"sundays")],
)
def test_nonsense_is_refused(old: bytes, new: bytes) -> None:
    with pytest.raises(FormatError, match="damaged"):
        list(read_labelled_segments(io.BytesIO(written().replace(old, new))))


def test_nano_brings_enough_of_every_emotion_from_voices_that_are_kept_apart(packaged: Bundle) -> None:
    public = read_rehearsal_set(packaged.folder)
    measured, rehearsed = public.measured_with, [clip for clip in public.rehearsed if clip.emotion]
    assert not {clip.speaker for clip in measured} & {clip.speaker for clip in rehearsed}
    assert len({clip.speaker for clip in measured}) >= 10
    for clips in (measured, rehearsed):
        assert min(Counter(clip.emotion for clip in clips).values()) >= 20
        assert {clip.emotion for clip in clips} == set(packaged.manifest.letters)
    assert any(clip.emotion is None for clip in public.rehearsed)
    assert (public.temperature, public.unsure_below) == (packaged.manifest.temperature, packaged.manifest.unsure_below)
    assert not any(clip.speaker in ("ravdess_17", "ravdess_18", "ravdess_19", "ravdess_20") for clip in public.clips)


def test_what_the_bundle_answered_is_what_it_answers(packaged: Bundle) -> None:
    clips = read_rehearsal_set(packaged.folder).clips[::40]
    found = predict_states(packaged.uncalibrated(), load_llm(packaged), [clip.states for clip in clips], [clip.sound for clip in clips])
    for clip, prediction in zip(clips, found, strict=True):
        assert torch.tensor(list(prediction.posterior.values())) == pytest.approx(clip.posterior, abs=1e-3)


def test_a_bundle_without_one_or_with_a_damaged_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no public\.safetensors"):
        read_rehearsal_set(tmp_path)
    (tmp_path / REHEARSAL_SET_FILE).write_bytes(b"nothing of the kind")
    with pytest.raises(BundleError, match="is damaged"):
        read_rehearsal_set(tmp_path)
    with safe_open(find_bundle("compact") / REHEARSAL_SET_FILE, "pt") as whole:
        tensors = {name: whole.get_tensor(name) for name in whole.keys()}  # noqa: SIM118
        told = json.loads(whole.metadata()["told"])
    told["clips"].pop()
    save_file(tensors, tmp_path / REHEARSAL_SET_FILE, {"told": json.dumps(told)})
    with pytest.raises(BundleError, match="is damaged"):
        read_rehearsal_set(tmp_path)


SETTINGS = NightlySettings.load()
LETTERS = [Emotion.ANGRY, Emotion.SAD, Emotion.NEUTRAL, Emotion.HAPPY]
SOUND = np.zeros(16_000, np.int16)


def piece(number: int, emotion: Emotion, kind: LabelKind = LabelKind.CORRECTION, hours: float | None = None) -> LabelledSegment:
    at = BEGIN + timedelta(hours=number if hours is None else hours)
    return LabelledSegment(number, at, SOUND, emotion, kind, Emotion.NEUTRAL, 0.2 if kind is LabelKind.CHECKIN else 1.0)


def labels(count: int) -> list[LabelledSegment]:
    return [piece(number, LETTERS[number % 4]) for number in range(count)]


@pytest.mark.parametrize("count", [20, 21, 40, 200])
def test_each_label_is_held_out_once_from_what_learned_of_other_times(count: int) -> None:
    pieces = labels(count)
    division = divide_labels(np.random.default_rng(0).permutation(np.array(pieces, dtype=object)), LETTERS, SETTINGS)
    assert len(division.folds) == SETTINGS.folds
    for fold in division.folds:
        start, end = fold.held_out[0].at, fold.held_out[-1].at
        others = [*fold.trained, *fold.stopping]
        assert not any(start <= one.at <= end for one in others)
        assert {one.segment for one in (*others, *fold.held_out)} == set(range(count))
        assert len(fold.held_out) == pytest.approx(count / SETTINGS.folds, abs=1)
        assert len(fold.stopping) == pytest.approx(SETTINGS.stopping * len(others), abs=1)
    assert [one.segment for one in division.held_out] == list(range(count))
    assert {one.segment for one in division.everything} == set(range(count))
    assert division.lacking(SETTINGS) == ""


def test_a_checkin_teaches_what_was_said_at_other_times_and_is_never_held_out() -> None:
    near = [piece(100 + number, Emotion.HAPPY, LabelKind.CHECKIN, hours=10 * number + 0.5) for number in range(4)]
    division = divide_labels([*labels(40), *near], LETTERS, SETTINGS)
    for number, fold in enumerate(division.folds):
        assert all(one.kind is not LabelKind.CHECKIN for one in (*fold.stopping, *fold.held_out))
        checkins = {one.segment for one in fold.trained if one.kind is LabelKind.CHECKIN}
        assert checkins == {100, 101, 102, 103} - {100 + number}
    assert division.learned.checkins == 4
    assert division.learned.left_out == {}


def test_what_the_bundle_cannot_answer_is_left_out_and_told() -> None:
    division = divide_labels([*labels(30), piece(90, Emotion.CONTEMPT)], LETTERS, SETTINGS)
    assert division.learned.left_out == {"the bundle cannot answer contempt": 1}
    assert division.learned.corrections == 30


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([], "0 corrections and confirmations are too few"),
        (labels(19), "19 corrections and confirmations are too few; at least 20 are needed"),
        ([piece(number, Emotion.SAD) for number in range(40)], "all corrections name the same emotion"),
        (
            [piece(n, LETTERS[n % 4], LabelKind.CORRECTION if n < 4 else LabelKind.CONFIRMATION) for n in range(40)],
            "only 4 labels are corrections",
        ),
    ],
)
def test_too_little_is_said(pieces: list[LabelledSegment], words: str) -> None:
    assert words in divide_labels(pieces, LETTERS, SETTINGS).lacking(SETTINGS)
