"""A person's evidence for tests of nights: the demo's clips, and what somebody says of them."""

import csv
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from model.audio import SAMPLE_RATE, Int16, float_to_pcm16, read_audio, s_to_samples
from model.evidence import Evidence, Kind
from model.types import Emotion
from tests.conftest import DEMO

BEGIN = datetime(2026, 7, 1, 8, tzinfo=UTC)


def clips(number: int) -> list[Int16]:
    """As many different pieces of speech as asked for, from the demo: its clips, then parts of them."""
    audio = read_audio(DEMO)
    with DEMO.with_suffix(".tsv").open(encoding="utf-8", newline="") as file:
        spans = [(float(row["start_s"]), float(row["end_s"])) for row in csv.DictReader(file, delimiter="\t")]
    found = [audio[s_to_samples(start) : s_to_samples(end)] for start, end in spans]
    rng = np.random.default_rng(0)
    while len(found) < number:
        whole = found[int(rng.integers(len(spans)))]
        cut = int(rng.integers(SAMPLE_RATE // 4))
        found.append(whole[cut:] * np.float32(rng.uniform(0.5, 1)))
    return [float_to_pcm16(clip) for clip in found[:number]]


def evidence(pcms: Sequence[Int16], shown: Sequence[Emotion], say: Callable[[int, Emotion], Emotion]) -> list[Evidence]:
    """A segment an hour. say: what the person says of segment `number`, to which `shown` was shown."""
    pieces = []
    for number, (pcm, answer) in enumerate(zip(pcms, shown, strict=True)):
        word = say(number, answer)
        kind = Kind.CONFIRMATION if word is answer else Kind.CORRECTION
        pieces.append(Evidence(number + 1, BEGIN + timedelta(hours=number), pcm, word, kind, answer))
    return pieces
