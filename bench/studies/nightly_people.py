"""The people of the nightly study: what a bundle makes of every clip of theirs, kept in a file, and lives simulated from these clips."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.audio import Float32, read_audio, samples_to_s
from model.bundle import Bundle, load_merged_llm
from model.emotions import EVERYDAY, Emotion, Prior
from model.labelled_segment import HeardWith
from model.language_model import LanguageModel
from model.predictor import SpeechInput
from model.voice_reference import VoiceSums, voice_shift
from train.corpora.manifest import Utterance, read_corpus_manifest
from train.evaluation.metrics import Bools, Floats, Ints
from train.evaluation.personalization import everyday
from train.nightly.training_set import encode_clips
from train.nightly.vector_scaling import LabelArrays, log_softmax
from train.rehearsal_set import predict_states
from train.workers import Progress

TEST_SHARE = 0.4
"""Of a person's clips; the reference of their voice is built from others."""

_LEAST_PROBABILITY = 1e-3
_NO_AUDIO = np.zeros(0, np.float32)
_FIRST_CLIPS = 8
_MOVED = 0.35
_SLIPS = 0.1
_DRAWN_AT_ONCE = 300


@dataclass(frozen=True, slots=True, eq=False)
class StudyPerson:
    """One speaker. acted (n,): numbers of the bundle's letters. log_probs (n, L): over the bundle's temperature, without biases or prior.

    tested (n,): clips that nothing is learned from, not even the voice. heard_with: as Night takes it. kept: where states are.
    """

    name: str
    clips: Sequence[Utterance]
    acted: Ints
    log_probs: Floats
    tested: Bools
    heard_with: HeardWith
    kept: Path

    def states(self, places: Ints) -> list[Tensor]:
        """Encoder states (T, D) of clips, as the night hears them: the reference, if any, subtracted."""
        with safe_open(self.kept, "pt") as file:
            bounds, states = file.get_tensor("bounds").tolist(), file.get_tensor("states").float()
            shift = 0 if self.heard_with.reference is None else file.get_tensor("shift")
        return [states[bounds[i] : bounds[i + 1]] - shift for i in places]


def load_people(
    bundle: Bundle, manifest: Path, wanted: str, least_clips: int, folder: Path, *, known: bool, prior: Prior
) -> list[StudyPerson]:
    """Speakers with at least so many clips of the bundle's letters, neutral ones among them.

    wanted: corpora, and speakers as CORPUS:SPEAKER, with commas between. folder: where what is heard is kept. known: whether the bundle
    knows their voices.
    """
    letters, names = bundle.manifest.letters, set(wanted.split(","))
    chosen = [u for u in read_corpus_manifest(manifest) if {u.corpus, f"{u.corpus}:{u.speaker}"} & names and u.emotion in letters]
    speakers = sorted({(u.corpus, u.speaker or "") for u in chosen})
    llm, found = load_merged_llm(bundle), []
    with Progress("people", len(speakers)) as progress:
        for number, (corpus, speaker) in enumerate(speakers):
            clips = [u for u in chosen if (u.corpus, u.speaker) == (corpus, speaker)]
            acted = np.array([letters.index(u.emotion) for u in clips if u.emotion])
            progress.advance(number)
            if len(clips) < least_clips or letters.index(Emotion.NEUTRAL) not in acted:
                continue
            kept = _heard(bundle.under(EVERYDAY), llm, clips, folder)
            with safe_open(kept, "pt") as file:
                log_probs = file.get_tensor("known" if known else "strange").double().numpy()
                tested, sums = file.get_tensor("tested").numpy(), file.get_tensor("sums").numpy().tobytes()
            found.append(
                StudyPerson(speaker, clips, acted, log_probs, tested, HeardWith((sums or None) if known else None, prior.name), kept)
            )
    return found


def _heard(bundle: Bundle, llm: LanguageModel, clips: Sequence[Utterance], folder: Path) -> Path:
    """The file with what is made of a person's clips, written where it is missing."""
    key = hashlib.sha256(repr((bundle.manifest.version, [str(u.path) for u in clips])).encode()).hexdigest()[:12]
    path = folder / f"heard-{key}.safetensors"
    if path.is_file():
        return path
    rng = np.random.default_rng(list(str(clips[0].speaker).encode()))
    tested = np.zeros(len(clips), dtype=np.bool_)
    tested[rng.permutation(len(clips))[: round(TEST_SHARE * len(clips))]] = True
    audio = [read_audio(u.path) for u in clips]
    states = encode_clips(bundle.encoder, audio)
    sums = _reference(bundle, llm, clips, states, [samples_to_s(len(one)) for one in audio], np.flatnonzero(~tested), rng)
    shift = torch.from_numpy(_shift(bundle, sums))
    tensors = {
        "strange": torch.from_numpy(_tempered(bundle, llm, states)),
        "known": torch.from_numpy(_tempered(bundle, llm, [row - shift for row in states])),
        "tested": torch.from_numpy(tested),
        "sums": torch.frombuffer(bytearray(b"" if sums is None else sums.to_bytes()), dtype=torch.uint8),
        "shift": shift,
        "states": torch.cat(states).half(),
        "bounds": torch.tensor(np.cumsum([0, *map(len, states)])),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def _reference(
    bundle: Bundle,
    llm: LanguageModel,
    clips: Sequence[Utterance],
    states: Sequence[Tensor],
    seconds: Sequence[float],
    places: Ints,
    rng: np.random.Generator,
) -> VoiceSums | None:
    """As the monitor builds it from some clips, mostly neutral ones: each is judged with what is known of the voice by then."""
    settings, letters = bundle.reference_settings, bundle.manifest.letters
    if settings is None:
        return None
    order = [int(places[i]) for i in everyday([clips[i] for i in places], rng)[0]]
    total, done, neutral = None, 0, letters.index(Emotion.NEUTRAL)
    while done < len(order):
        some = order[done : done + max(_FIRST_CLIPS, done)]
        shift = torch.from_numpy(voice_shift(total, settings))
        answers = predict_states(bundle, llm, [states[i] - shift for i in some], [SpeechInput(_NO_AUDIO)] * len(some))
        posteriors = [[one.posterior[letter] for letter in letters] for one in answers]
        sums = [settings.sums_of(states[i].mean(dim=0).numpy(), p, seconds[i], neutral) for i, p in zip(some, posteriors, strict=True)]
        total = reduce(add, sums if total is None else [total, *sums])
        done += len(some)
    return total


def _shift(bundle: Bundle, sums: VoiceSums | None) -> Float32:
    settings = bundle.reference_settings
    return np.zeros(bundle.encoder.width, np.float32) if settings is None else voice_shift(sums, settings)


def _tempered(bundle: Bundle, llm: LanguageModel, states: Sequence[Tensor]) -> Floats:
    answers = predict_states(bundle.uncalibrated(), llm, states, [SpeechInput(_NO_AUDIO)] * len(states))
    rows = [[one.posterior[letter] for letter in bundle.manifest.letters] for one in answers]
    return np.asarray(np.log(np.maximum(rows, _LEAST_PROBABILITY)) / bundle.manifest.temperature)


@dataclass(frozen=True, slots=True, eq=False)
class SimulatedLife:
    """How a person speaks, and what they say of it. neutral: share of their speech. confirms: how often they confirm what is right, for
    each time they correct what is wrong, 0 to 1. In a tenth of corrections they choose a letter at random. prior (L,): corrects the
    log-probabilities to what they are shown."""

    person: StudyPerson
    neutral: float
    confirms: float
    neutral_letter: int
    prior: Floats

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

    def labels(self, count: int, rng: np.random.Generator) -> tuple[Floats, LabelArrays]:
        """The first so many of their labels, in order of time, with the log-probabilities (count, L) of what they are about."""
        some = list(self._labelled(count, rng))
        log_probs, said, shown = (np.concatenate(parts)[:count] for parts in zip(*some, strict=True))
        return log_probs, LabelArrays(said, shown, said != shown, np.ones(count))

    def _labelled(self, count: int, rng: np.random.Generator) -> Iterator[tuple[Floats, Ints, Ints]]:
        found = 0
        while found < count:
            log_probs, acted = self.speech(_DRAWN_AT_ONCE, rng)
            shown = (log_probs + self.prior).argmax(axis=1)
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


def shuffled_labels(labels: LabelArrays, rng: np.random.Generator) -> LabelArrays:
    """The same words about other segments: labels that say nothing."""
    said = rng.permutation(labels.said)
    return LabelArrays(said, labels.shown, said != labels.shown, labels.weights)


def random_corrections(labels: LabelArrays, rng: np.random.Generator) -> LabelArrays:
    """The same confirmations, and corrections dealt out anew, each to another letter than was shown: corrections that say nothing."""
    said = labels.said.copy()
    words = labels.said[labels.corrected]
    for place in np.flatnonzero(labels.corrected):
        possible = words[words != labels.shown[place]]
        said[place] = rng.choice(possible) if len(possible) else said[place]
    return LabelArrays(said, labels.shown, labels.corrected, labels.weights)


def folds_of(count: int, folds: int) -> Ints:
    """In which part of time each of `count` labels lies (count,)."""
    edges = [round(count * part / folds) for part in range(folds + 1)]
    return np.repeat(np.arange(folds), [end - start for start, end in pairwise(edges)])
