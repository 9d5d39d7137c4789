"""Whether nights of training help people whom a bundle never heard: `python -m bench.studies.nights {promotion,voices,gains} MANIFEST`.

promotion: thousands of nights that learn letter biases alone, on clips drawn anew from each person's own; how many are promoted by what
they truly gain, and how many are where labels say nothing.
voices: what the promotion test can tell about other voices with the bundle's rehearsal set.
gains: whole nights as shipped, on a person's real clips; measured on their other clips, promoted or not. --dealt: labels say nothing.

MANIFEST is a corpus manifest; --people names corpora, or speakers as CORPUS:SPEAKER, that the bundle was not trained on.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import numpy as np
import torch

from bench.studies.people import Life, Person, dealt, folds_of, miscorrected, people
from bench.tables import table
from model.audio import float_to_pcm16, read_audio
from model.bundle import open_bundle
from model.decision import Decision, Verdict
from model.evidence import Evidence, Kind
from model.manifest import find_bundle
from model.predictor import Sound
from model.types import Emotion
from train.asking import from_states
from train.nightly.labels import Labels
from train.nightly.night import Night
from train.nightly.promotion import ALPHA, net_gain, other_voices, p_by_chance, p_no_better
from train.nightly.settings import NightSettings
from train.nightly.vector_scaling import VectorScaling
from train.nightly.verdict import acted_in
from train.public_set import read_public_set
from train.scoring.metrics import Floats, Ints, unweighted_accuracy

_BEGIN = datetime(2026, 1, 5, 9, tzinfo=UTC)
_LABELS = (20, 40, 60, 80, 100, 160, 170)
_LIVES = ((0.7, 1.0), (0.7, 0.3), (0.2, 1.0), (0.2, 0.3), (0.85, 0.3))
_TESTED = 2000
_DRAWS = 249
_TEST_SHARE = 0.4
_FLOOR = 1e-9


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["promotion", "voices", "gains"])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--bundle", default="nano")
    parser.add_argument("--people", default="EMOVO,ASED," + ",".join(f"RAVDESS:ravdess_{number}" for number in range(17, 21)))
    parser.add_argument("--least-clips", type=int, default=50, help="of a person")
    parser.add_argument("--nights", type=int, default=6, help="of a person in each setting (promotion)")
    parser.add_argument("--labels", default="", help="how many, with commas between; by default the study's own")
    parser.add_argument("--confirms", type=float, default=0.3, help="confirmations for each correction (gains)")
    parser.add_argument("--dealt", action="store_true")
    parser.add_argument("--heard", type=Path, default=Path("heard"), help="folder where what the bundle hears is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = people(options.bundle, options.manifest, options.people, options.least_clips, options.heard)
    counts = [int(word) for word in options.labels.split(",") if word]
    if options.study == "promotion":
        lines = promotion(found, _neutral_letter(options.bundle), counts or _LABELS, options.nights)
    elif options.study == "voices":
        lines = voices(found, options.bundle)
    else:
        lines = gains(found, options.bundle, counts or (20, 40, 80, 160), options.confirms, options.dealt)
    print("\n".join(lines))


# biases alone, on made-up lives ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """One night with biases. accuracy, balanced: of the bundle in use on the person's speech, and where all emotions are as frequent.
    gain, balanced_gain: what the night truly changes them by."""

    accuracy: float
    gain: float
    balanced: float
    balanced_gain: float
    promoted: bool


def promotion(found: Sequence[Person], neutral: int, counts: Sequence[int], nights: int) -> list[str]:
    """Two tables: what is promoted, and what biases gain."""
    rows, gained = [], []
    for (share, confirms), count in product(_LIVES, counts):
        lives = [Life(person, share, confirms, neutral) for person in found]
        true, in_deals, in_corrections = (_held(lives, count, nights, kind) for kind in (None, dealt, miscorrected))
        large, small, none = ([one for one in true if low <= one.gain < high] for low, high in ((0.1, 2), (0, 0.1), (-2, 0)))
        name = [f"{share:.0%} neutral, confirms {confirms:g}", count]
        rows.append([*name, *(cell for some in (large, small, none, in_deals, in_corrections) for cell in (len(some), _share(some)))])
        worst = min((one.gain for one in true if one.promoted), default=0.0)
        rows[-1].append(f"{worst:+.3f}")
        used = [one.gain if one.promoted else 0.0 for one in true]
        columns = [[one.accuracy for one in true], [one.gain for one in true], used]
        columns += [[one.balanced for one in true], [one.balanced_gain for one in true]]
        gained.append(
            [
                *name,
                *(f"{np.mean(column):+.3f}" if place in (1, 2, 4) else f"{np.mean(column):.3f}" for place, column in enumerate(columns)),
            ]
        )
        print(rows[-1], gained[-1], file=sys.stderr, flush=True)
    pairs = ["gain 0.1 or more: nights", "promoted", "0 to 0.1: nights", "promoted", "under 0: nights", "promoted"]
    pairs += ["dealt at random: nights", "promoted", "only corrections at random: nights", "promoted", "least gain promoted"]
    head = ["life", "labels", "accuracy, no night", "gain", "gain used", "all emotions alike, no night", "gain"]
    return [*table(["life", "labels", *pairs], rows), "", *table(head, gained)]


def _share(some: Sequence[Outcome]) -> str:
    return f"{np.mean([one.promoted for one in some]):.3f}" if some else ""


def _held(lives: Sequence[Life], count: int, nights: int, changed: Callable[[Labels, np.random.Generator], Labels] | None) -> list[Outcome]:
    found = []
    for number, life in enumerate(lives):
        rng = np.random.default_rng([number, count, int(100 * life.neutral), int(100 * life.confirms), changed is None])
        even = Life(life.person, 1 / len(np.unique(life.person.acted)), life.confirms, life.neutral_letter)
        speech, balanced = life.speech(_TESTED, rng), even.speech(_TESTED, rng)
        for _ in range(nights):
            log_probs, labels = life.labels(count, rng)
            found.append(_night(log_probs, changed(labels, rng) if changed else labels, speech, balanced))
    return found


def _night(log_probs: Floats, labels: Labels, speech: tuple[Floats, Ints], balanced: tuple[Floats, Ints]) -> Outcome:
    settings = NightSettings.load()
    parts = folds_of(len(labels), settings.folds)
    after = np.empty_like(log_probs)
    for part in range(settings.folds):
        fitted = VectorScaling.fit(log_probs[parts != part], labels.at(parts != part), settings.bias_spread)
        after[parts == part] = fitted.of_speech(log_probs[parts == part])
    chances = p_by_chance(after, labels, parts, draws=_DRAWS), p_no_better(log_probs, after, labels, draws=_DRAWS)
    promoted = max(chances) <= ALPHA and net_gain(log_probs, after, labels) > 0
    learned = VectorScaling.fit(log_probs, labels, settings.bias_spread)
    figures = [_accuracies(learned, *some) for some in (speech, balanced)]
    (accuracy, now), (even, even_now) = figures
    return Outcome(accuracy, now - accuracy, even, even_now - even, promoted)


def _accuracies(learned: VectorScaling, log_probs: Floats, acted: Ints) -> tuple[float, float]:
    answers = log_probs.argmax(axis=1), learned.of_speech(log_probs).argmax(axis=1)
    before, after = (float((one == acted).mean()) for one in answers)
    return before, after


# other voices ----------------------------------------------------------------------------------------------------


def voices(found: Sequence[Person], bundle: str) -> list[str]:
    """How often the rehearsal set lets a bundle pass that lost so much on other voices, and what biases of people lose there."""
    public, letters = read_public_set(find_bundle(bundle)), open_bundle(find_bundle(bundle)).manifest.letters
    clips = public.measured_with
    before = np.log(np.maximum(torch.stack([clip.posterior for clip in clips]).double().numpy(), _FLOOR))
    acted, speakers = acted_in(clips, letters), [clip.speaker for clip in clips]
    rows, rng = [], np.random.default_rng(0)
    for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0):
        tried = []
        for _ in range(100):
            # So many answers say nothing any more.
            after = before.copy()
            lost = rng.random(len(clips)) < share
            after[lost] = after[lost][:, rng.permutation(len(letters))]
            tried.append(other_voices(before, after, acted, speakers))
        fall = np.mean([np.nanmean(one.before) - np.nanmean(one.after) for one in tried])
        rows.append([f"{share:.0%}", f"{fall:.3f}", f"{np.mean([one.at_least >= -one.margin for one in tried]):.2f}"])
    lines = [f"{len(clips)} clips of {len(set(speakers))} voices; at most {tried[0].margin:.3f} may be lost.", ""]
    lines += [*table(["answers that say nothing", "true fall", "pass"], rows), ""]
    falls = []
    for number, (person, (share, confirms)) in enumerate(product(found, _LIVES[:4])):
        log_probs, labels = Life(person, share, confirms, letters.index(Emotion.NEUTRAL)).labels(100, np.random.default_rng(number))
        learned = VectorScaling.fit(log_probs, labels, NightSettings.load().bias_spread)
        falls.append(other_voices(before, learned.of_speech(before), acted, speakers))
    lost = [float(np.nanmean(one.before) - np.nanmean(one.after)) for one in falls]
    passed = np.mean([one.at_least >= -one.margin for one in falls])
    told = f"Biases from 100 labels of {len(found)} people lose {np.median(lost):.3f} there in the median, {max(lost):.3f} at most"
    return [*lines, f"{told}; {passed:.3f} pass."]


# whole nights, on real clips -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    """Unweighted accuracy on a person's other clips: before, with biases alone, with what the night learned, and as it is then used."""

    person: str
    labels: int
    before: float
    biases: float
    night: float
    decision: Decision

    @property
    def used(self) -> float:
        """What the person gets."""
        return self.night if self.decision.verdict is Verdict.PROMOTED else self.before


def gains(found: Sequence[Person], bundle: str, counts: Sequence[int], confirms: float, shuffled: bool) -> list[str]:
    """A table by labels, and one by night."""
    measured = [one for person in found for one in _nights(person, bundle, counts, confirms, shuffled)]
    rows, nights = [], []
    for count in counts:
        some = [one for one in measured if one.labels == count]
        if some:
            columns = ([one.before for one in some], [one.biases for one in some], [one.night for one in some], [one.used for one in some])
            promoted = sum(one.decision.verdict is Verdict.PROMOTED for one in some)
            rows.append(
                [count, len({one.person for one in some}), *(f"{np.mean(column):.3f}" for column in columns), f"{promoted} of {len(some)}"]
            )
    for one in measured:
        own = one.decision.own
        told = f"{own.gained}, {own.lost}; {own.p_no_better:.3f}, {own.p_by_chance:.3f}" if own else ""
        figures = [f"{value:.3f}" for value in (one.before, one.biases, one.night)]
        nights.append([one.person, one.labels, *figures, one.decision.stage or "", told, one.decision.verdict])
    head = ["labels", "people", "no night", "biases alone", "night", "as used", "promoted"]
    each = ["person", "labels", "no night", "biases alone", "night", "stage", "gained, lost; p better, p chance", "verdict"]
    return [*table(head, rows), "", *table(each, nights)]


def _nights(person: Person, bundle: str, counts: Sequence[int], confirms: float, shuffled: bool) -> Iterator[Measured]:
    rng = np.random.default_rng(sum(map(ord, person.name)))
    order = rng.permutation(len(person.clips))
    test, rest = np.split(order, [int(_TEST_SHARE * len(order))])
    shown = person.log_probs.argmax(axis=1)
    said = rest[rng.random(len(rest)) < np.where(shown[rest] == person.acted[rest], confirms, 1.0)]
    words = rng.permutation(person.acted[said]) if shuffled else person.acted[said]
    letters = open_bundle(find_bundle(bundle)).manifest.letters
    settings = NightSettings.load().model_copy(update={"least_labels": 1, "least_corrections": 0})
    for count in counts:
        if count > len(said):
            continue
        pieces = [
            _piece(person, i, k, letters[word], letters[shown[i]])
            for k, (i, word) in enumerate(zip(said[:count], words[:count], strict=True))
        ]
        labels = Labels.of(pieces, letters)
        biases = VectorScaling.fit(person.log_probs[said[:count]], labels, settings.bias_spread)
        with tempfile.TemporaryDirectory() as name:
            night = Night(find_bundle(bundle), Path(name) / "work", settings=settings)
            decision = night.learn(pieces, Path(name) / "new")
            predictions = from_states(
                night.bundle.uncalibrated(), night.llm, [person.states(i) for i in test], [Sound(np.zeros(0, np.float32))] * len(test)
            )
        answers = np.log(np.maximum([[one.posterior[letter] for letter in letters] for one in predictions], _FLOOR))
        learned = answers + np.array([decision.letter_bias.get(letter, 0.0) for letter in letters])
        before = person.log_probs[test]
        scores = [_uar(person.acted[test], rows) for rows in (before, biases.of_speech(before), learned)]
        yield Measured(person.name, count, *scores, decision)
        print(person.name, count, *(f"{score:.3f}" for score in scores), decision.verdict, decision.reason, file=sys.stderr, flush=True)


def _piece(person: Person, clip: int, number: int, word: Emotion, shown: Emotion) -> Evidence:
    pcm = float_to_pcm16(read_audio(person.clips[clip].path))
    kind = Kind.CONFIRMATION if word is shown else Kind.CORRECTION
    return Evidence(number, _BEGIN + timedelta(hours=number), pcm, word, kind, shown)


def _uar(acted: Ints, rows: Floats) -> float:
    return unweighted_accuracy(acted, rows.argmax(axis=1), rows.shape[1])


def _neutral_letter(bundle: str) -> int:
    return open_bundle(find_bundle(bundle)).manifest.letters.index(Emotion.NEUTRAL)


if __name__ == "__main__":
    main()
