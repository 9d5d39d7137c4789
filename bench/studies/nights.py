"""What nights of training are worth on voices that nothing was trained or tuned on: `python -m bench.studies.nights MANIFEST [--shuffled]`.

Each of RAVDESS's actors 17 to 20 in turn is the person. Half of their clips, at random, are five days of six segments, every one of which
they correct or confirm; after each day a night is held with all labels so far, beginning with the shipped bundle. Measured are the other
half of the clips, and all clips of the other three actors, which show what is forgotten. The gate decides as it would; what was learned is
measured whether it lets it through or not. --shuffled: labels are dealt out anew among the segments, so that there is nothing to learn.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

from model.audio import float_to_pcm16, read_audio
from model.bundle import load_llm, open_bundle
from model.decision import Decision
from model.evidence import Evidence, Kind
from model.manifest import find_bundle
from model.predictor import Predictor, Sound
from model.types import Emotion
from train.corpora.manifest import Utterance, read_manifest
from train.nightly.night import Night
from train.nightly.settings import NightSettings
from train.scoring.metrics import unweighted_accuracy
from train.workers import worker_pool

_ACTORS = tuple(f"ravdess_{number}" for number in range(17, 21))
_DAYS = 5
_BEGIN = datetime(2026, 1, 5, 9, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Measured:
    """One night of one person. own, others: unweighted accuracy on the other half of their clips, and on the other actors."""

    night: int
    own: float
    others: float
    decision: Decision | None


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--shuffled", action="store_true")
    options = parser.parse_args()
    clips = [u for u in read_manifest(options.manifest) if u.speaker in _ACTORS and u.emotion]
    with worker_pool(os.cpu_count() or 1, torch.set_num_threads, (1,)) as pool:
        lived = dict(zip(_ACTORS, pool.map(_lived, _ACTORS, repeat(clips), repeat(options.shuffled)), strict=False))
    print("\n".join(_table(lived)))


def _lived(actor: str, clips: Sequence[Utterance], shuffled: bool) -> list[Measured]:
    """The state before, then after each night."""
    return list(_nights(actor, clips, shuffled))


def _nights(actor: str, clips: Sequence[Utterance], shuffled: bool) -> Iterator[Measured]:
    own = [u for u in clips if u.speaker == actor]
    order = np.random.default_rng(int(actor[-2:])).permutation(len(own))
    days, other_half = [own[i] for i in order[: len(own) // 2]], [own[i] for i in order[len(own) // 2 :]]
    others = [u for u in clips if u.speaker != actor]
    judge = _Judge()
    yield Measured(0, judge.score(other_half), judge.score(others), None)
    labels = judge.labels(days, shuffled)
    # The shipped settings would train from 20 labels on; here every night is held, to see what it is worth.
    settings = NightSettings.load().model_copy(update={"least_labels": 1, "least_corrections": 0})
    for night in range(1, _DAYS + 1):
        with tempfile.TemporaryDirectory() as folder:
            learner = Night(find_bundle("compact"), Path(folder) / "work", settings=settings)
            decision = learner.learn(labels[: night * len(labels) // _DAYS], Path(folder) / "new")
            judge.take(learner)
            yield Measured(night, judge.score(other_half), judge.score(others), decision)
            print(f"{actor}, night {night}: {decision.verdict}, {decision.reason}; {decision.own}", file=sys.stderr, flush=True)


class _Judge:
    """Asks the shipped bundle, or what a night has made of it."""

    def __init__(self) -> None:
        self._bundle = open_bundle(find_bundle("compact"))
        self._predictor = Predictor(self._bundle, load_llm(self._bundle))
        self._letters = self._bundle.manifest.letters

    def take(self, learner: Night) -> None:
        """From now on ask the bundle as it has learned."""
        self._predictor = Predictor(learner.bundle, learner.llm)

    def score(self, clips: Sequence[Utterance]) -> float:
        """Unweighted accuracy."""
        said = np.array([self._letters.index(one) for one in self._answers(clips)])
        return unweighted_accuracy(np.array([self._letters.index(u.emotion) for u in clips if u.emotion]), said, len(self._letters))

    def labels(self, clips: Sequence[Utterance], shuffled: bool) -> list[Evidence]:
        """What the person says of each clip, an hour after the other."""
        acted = [u.emotion for u in clips if u.emotion]
        if shuffled:
            acted = [acted[i] for i in np.random.default_rng(len(acted)).permutation(len(acted))]
        return [
            Evidence(
                number,
                _BEGIN + timedelta(days=number * _DAYS // len(clips), hours=number % 6),
                float_to_pcm16(read_audio(clip.path)),
                emotion,
                Kind.CONFIRMATION if emotion is shown else Kind.CORRECTION,
                shown,
            )
            for number, (clip, emotion, shown) in enumerate(zip(clips, acted, self._answers(clips), strict=True))
        ]

    def _answers(self, clips: Sequence[Utterance]) -> list[Emotion]:
        answers = self._predictor.predict([Sound(read_audio(u.path)) for u in clips])
        return [one.prediction.emotion for one in answers if one.prediction]


def _table(lived: dict[str, list[Measured]]) -> list[str]:
    lines = ["| after | own voice, other half | change | other actors | change | let through |", "|---|---|---|---|---|---|"]
    first = [nights[0] for nights in lived.values()]
    for night in range(_DAYS + 1):
        now = [nights[night] for nights in lived.values()]
        own, others = np.mean([one.own for one in now]), np.mean([one.others for one in now])
        changes = own - np.mean([one.own for one in first]), others - np.mean([one.others for one in first])
        through = sum(one.decision is not None and one.decision.verdict.value == "promoted" for one in now)
        name = f"night {night}, {night * 6} labels" if night else "nothing"
        lines.append(f"| {name} | {own:.3f} | {changes[0]:+.3f} | {others:.3f} | {changes[1]:+.3f} | {through} of {len(now)} |")
    lines += ["", "| actor | own voice: before, after each night | other actors: before, after the last |", "|---|---|---|"]
    for actor, nights in lived.items():
        own_row = " ".join(f"{one.own:.3f}" for one in nights)
        lines.append(f"| {actor} | {own_row} | {nights[0].others:.3f} {nights[-1].others:.3f} |")
    return lines


if __name__ == "__main__":
    main()
