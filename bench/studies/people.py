"""People of corpora as a bundle hears them, and made-up lives in which they say what their speech was.

What a bundle makes of every clip is kept in a file, encoder states and all, so that studies need not hear a clip twice. A life draws new
clips of a person from those there are: each a clip's log-probabilities, moved a little within what that emotion of that voice varies by
(a smoothed bootstrap, Silverman and Young, 1987), so that no two are the same. n clips, L letters, D encoder width.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.audio import read_audio
from model.bundle import load_llm, open_bundle
from model.manifest import find_bundle
from model.predictor import Sound
from model.types import Emotion
from train.asking import from_states
from train.corpora.manifest import Utterance, read_manifest
from train.nightly.hearing import encoded
from train.nightly.labels import Labels
from train.nightly.vector_scaling import log_softmax
from train.progress import Progress
from train.scoring.metrics import Floats, Ints

_AT_ONCE = 16
_FLOOR = 1e-3
_NO_AUDIO = np.zeros(0, np.float32)
_MOVED = 0.35
_SLIPS = 0.1
_DRAWN_AT_ONCE = 300


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """One speaker. acted (n,): numbers of the bundle's letters. log_probs (n, L): over the bundle's temperature, without biases."""

    name: str
    clips: Sequence[Utterance]
    acted: Ints
    log_probs: Floats
    kept: Path
    places: Ints

    def states(self, number: int) -> Tensor:
        """Encoder states (T, D) of a clip."""
        with safe_open(self.kept, "pt") as file:
            start, end = file.get_tensor("bounds")[self.places[number] : self.places[number] + 2].tolist()
            return file.get_slice("states")[start:end].float()  # type: ignore[no-any-return]


def people(bundle: str, manifest: Path, wanted: str, least_clips: int, folder: Path) -> list[Person]:
    """Speakers with at least so many clips of the bundle's letters, neutral ones among them.

    wanted: corpora, and speakers as CORPUS:SPEAKER, with commas between. folder: where what is heard is kept.
    """
    letters = open_bundle(find_bundle(bundle)).manifest.letters
    names = wanted.split(",")
    chosen = [u for u in read_manifest(manifest) if {u.corpus, f"{u.corpus}:{u.speaker}"} & set(names) and u.emotion in letters]
    kept = _heard(bundle, chosen, folder)
    with safe_open(kept, "pt") as file:
        log_probs = file.get_tensor("log_probs").double().numpy()
    acted = np.array([letters.index(u.emotion) for u in chosen if u.emotion])
    found = []
    for name in sorted({(u.corpus, u.speaker) for u in chosen}):
        places = np.array([i for i, u in enumerate(chosen) if (u.corpus, u.speaker) == name])
        if len(places) >= least_clips and letters.index(Emotion.NEUTRAL) in acted[places]:
            clips = [chosen[i] for i in places]
            found.append(Person(name[1], clips, acted[places], np.asarray(log_probs[places], dtype=np.float64), kept, places))
    return found


def _heard(bundle: str, clips: Sequence[Utterance], folder: Path) -> Path:
    """The file with states and log-probabilities of all clips, made where it is missing."""
    opened = open_bundle(find_bundle(bundle))
    key = hashlib.sha256(repr((opened.manifest.version, [str(u.path) for u in clips])).encode()).hexdigest()[:12]
    path = folder / f"heard-{key}.safetensors"
    if path.is_file():
        return path
    llm, states, rows = load_llm(opened), list[Tensor](), list[list[float]]()
    with Progress("hearing", len(clips)) as progress:
        for first in range(0, len(clips), _AT_ONCE):
            some = encoded(opened.encoder, [read_audio(u.path) for u in clips[first : first + _AT_ONCE]])
            predictions = from_states(opened.uncalibrated(), llm, some, [Sound(_NO_AUDIO)] * len(some))
            rows += [[one.posterior[letter] for letter in opened.manifest.letters] for one in predictions]
            states += [row.half() for row in some]
            progress.advance(len(rows) - 1)
    folder.mkdir(parents=True, exist_ok=True)
    log_probs = np.log(np.maximum(rows, _FLOOR)) / opened.manifest.temperature
    bounds = torch.tensor(np.cumsum([0, *map(len, states)]))
    save_file({"states": torch.cat(states), "bounds": bounds, "log_probs": torch.from_numpy(log_probs)}, path)
    return path


@dataclass(frozen=True, slots=True, eq=False)
class Life:
    """How a person speaks, and what they say of it. neutral: share of their speech. confirms: how often they confirm what is right, for
    each time they correct what is wrong, 0 to 1. In a tenth of corrections they choose a letter at random."""

    person: Person
    neutral: float
    confirms: float
    neutral_letter: int

    def speech(self, count: int, rng: np.random.Generator) -> tuple[Floats, Ints]:
        """Log-probabilities (count, L) of new clips, and what they are (count,)."""
        acted = self._acted(count, rng)
        found = np.empty((count, self.person.log_probs.shape[1]))
        for letter in np.unique(acted):
            mine, places = self.person.log_probs[self.person.acted == letter], np.flatnonzero(acted == letter)
            mean = mine.mean(axis=0)
            other = mine[rng.integers(len(mine), size=(2, len(places)))] - mine[rng.integers(len(mine), size=(2, len(places)))]
            # The sum of two differences between clips, halved, varies as clips do; so does the mixture.
            moved = np.sqrt(1 - _MOVED**2) * (mine[rng.integers(len(mine), size=len(places))] - mean) + _MOVED * other.sum(axis=0) / 2
            found[places] = mean + moved
        return log_softmax(found), acted

    def labels(self, count: int, rng: np.random.Generator) -> tuple[Floats, Labels]:
        """The first so many of their labels, in order of time, with the log-probabilities (count, L) of what they are about."""
        some = list(self._labelled(count, rng))
        log_probs, said, shown = (np.concatenate(parts)[:count] for parts in zip(*some, strict=True))
        return log_probs, Labels(said, shown, said != shown, np.ones(count))

    def _labelled(self, count: int, rng: np.random.Generator) -> Iterator[tuple[Floats, Ints, Ints]]:
        found = 0
        while found < count:
            log_probs, acted = self.speech(_DRAWN_AT_ONCE, rng)
            shown = log_probs.argmax(axis=1)
            kept = rng.random(len(acted)) < np.where(shown == acted, self.confirms, 1.0)
            log_probs, acted, shown = log_probs[kept], acted[kept], shown[kept]
            slipped = rng.random(len(acted)) < _SLIPS
            other = rng.integers(log_probs.shape[1], size=len(acted))
            said = np.where((shown != acted) & slipped & (other != shown), other, acted)
            found += len(said)
            yield log_probs, said, shown

    def _acted(self, count: int, rng: np.random.Generator) -> Ints:
        others = [letter for letter in np.unique(self.person.acted) if letter != self.neutral_letter]
        return np.where(rng.random(count) < self.neutral, self.neutral_letter, rng.choice(others, size=count))


def dealt(labels: Labels, rng: np.random.Generator) -> Labels:
    """The same words about other segments: labels that say nothing."""
    said = rng.permutation(labels.said)
    return Labels(said, labels.shown, said != labels.shown, labels.weights)


def miscorrected(labels: Labels, rng: np.random.Generator) -> Labels:
    """The same confirmations, and corrections dealt out anew, each to another letter than was shown: corrections that say nothing."""
    said = labels.said.copy()
    words = labels.said[labels.corrected]
    for place in np.flatnonzero(labels.corrected):
        possible = words[words != labels.shown[place]]
        said[place] = rng.choice(possible) if len(possible) else said[place]
    return Labels(said, labels.shown, labels.corrected, labels.weights)


def folds_of(count: int, folds: int) -> Ints:
    """In which part of time each of `count` labels lies (count,)."""
    edges = [round(count * part / folds) for part in range(folds + 1)]
    return np.repeat(np.arange(folds), [end - start for start, end in pairwise(edges)])
