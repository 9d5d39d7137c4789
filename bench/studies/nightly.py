"""Whether nightly retraining helps people whom a bundle never heard: `python -m bench.studies.nightly {promotion,voices,gains} MANIFEST`.

promotion: thousands of nights that learn letter biases alone, on clips drawn anew from each person's own; how many are promoted by what
they truly gain, and how many are where labels carry no information.
voices: what the promotion test can tell about other voices with the bundle's rehearsal set.
gains: whole nights as shipped, on a person's real clips; measured on their other clips, promoted or not. --dealt: shuffled labels.

MANIFEST is a corpus manifest; --people names corpora, or speakers as CORPUS:SPEAKER, that the bundle was not trained on. What a bundle
makes of every clip is kept in a file, encoder states included, so that studies encode a clip once.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import numpy as np
import torch

from bench.harness import markdown_table
from bench.studies.nightly_people import (
    SimulatedLife,
    StudyPerson,
    folds_of,
    load_people,
    random_corrections,
    shuffled_labels,
)
from model.audio import float_to_pcm16, read_audio
from model.bundle import Bundle, open_bundle
from model.bundle_format import PromotionDecision, find_bundle
from model.emotions import Emotion, Prior
from model.labelled_segment import LabelKind, LabelledSegment
from model.predictor import SpeechInput
from train.evaluation.metrics import Floats, Ints, unweighted_accuracy
from train.nightly.night import NightlyRetraining
from train.nightly.promotion import ALPHA, acted_letters, net_gain, other_voices, p_by_chance, p_no_better
from train.nightly.training_set import NightlySettings
from train.nightly.vector_scaling import LabelArrays, VectorScaling, correction
from train.rehearsal_set import predict_states, read_rehearsal_set

_BEGIN = datetime(2026, 1, 5, 9, tzinfo=UTC)
_LABELS = (60, 100, 170)
_GAINS = (20, 40, 80, 160)
_LIVES = ((0.7, 1.0), (0.7, 0.3), (0.2, 1.0), (0.2, 0.3))
_TESTED = 1000
_DRAWS = 249
_FLOOR = 1e-9


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["promotion", "voices", "gains"])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--bundle", default="compact")
    parser.add_argument("--people", default="EMOVO,TurEV-DB,ASED")
    parser.add_argument("--least-clips", type=int, default=60, help="of a person")
    parser.add_argument("--strangers", action="store_true")
    parser.add_argument("--prior", default="", help="everyday or balanced; by default the study's own")
    parser.add_argument("--nights", type=int, default=4, help="of a person in each setting")
    parser.add_argument("--labels", default="", help="how many, with commas between; by default the study's own")
    parser.add_argument("--confirms", type=float, default=0.5, help="confirmations for each correction (gains)")
    parser.add_argument("--dealt", action="store_true")
    parser.add_argument("--whole", action="store_true", help="one night of each person and number of labels as shipped (gains)")
    parser.add_argument("--heard", type=Path, default=Path("heard"), help="folder where what the bundle hears is kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle = open_bundle(find_bundle(options.bundle))
    prior = Prior.named(options.prior or ("balanced" if options.study == "gains" else "everyday"))
    known, least = not options.strangers, options.least_clips
    found = load_people(bundle, options.manifest, options.people, least, options.heard, known=known, prior=prior)
    counts = [int(word) for word in options.labels.split(",") if word]
    shift = correction(bundle.manifest, prior)
    if options.study == "promotion":
        lines = promotion(found, bundle, shift, counts or _LABELS, options.nights)
    elif options.study == "voices":
        lines = voices(found, bundle, shift)
    else:
        confirms, nights = options.confirms, options.nights
        lines = gains(found, bundle, shift, counts or _GAINS, nights=nights, confirms=confirms, shuffled=options.dealt, whole=options.whole)
    print(
        "\n".join([f"{len(found)} people, {bundle.manifest.version}, prior {prior.name}, {'known' if known else 'strangers'}", "", *lines])
    )


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


def promotion(found: Sequence[StudyPerson], bundle: Bundle, prior: Floats, counts: Sequence[int], nights: int) -> list[str]:
    """Two tables: what is promoted, and what biases gain. prior (L,): see Life."""
    rows, gained, neutral = [], [], bundle.manifest.letters.index(Emotion.NEUTRAL)
    for (share, confirms), count in product(_LIVES, counts):
        lives = [SimulatedLife(person, share, confirms, neutral, prior) for person in found]
        true, in_deals, in_corrections = (
            _held_reference(lives, count, nights, kind) for kind in (None, shuffled_labels, random_corrections)
        )
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
    return [*markdown_table(["life", "labels", *pairs], rows), "", *markdown_table(head, gained)]


def _share(some: Sequence[Outcome]) -> str:
    return f"{np.mean([one.promoted for one in some]):.3f}" if some else ""


def _held_reference(
    lives: Sequence[SimulatedLife], count: int, nights: int, changed: Callable[[LabelArrays, np.random.Generator], LabelArrays] | None
) -> list[Outcome]:
    found = []
    for number, life in enumerate(lives):
        rng = np.random.default_rng([number, count, int(100 * life.neutral), int(100 * life.confirms), changed is None])
        even = SimulatedLife(life.person, 1 / len(np.unique(life.person.acted)), life.confirms, life.neutral_letter, life.prior)
        speech, balanced = life.speech(_TESTED, rng), even.speech(_TESTED, rng)
        for _ in range(nights):
            log_probs, labels = life.labels(count, rng)
            found.append(_night(log_probs, changed(labels, rng) if changed else labels, life.prior, speech, balanced))
    return found


def _night(log_probs: Floats, labels: LabelArrays, prior: Floats, speech: tuple[Floats, Ints], balanced: tuple[Floats, Ints]) -> Outcome:
    learned, promoted = _with_biases(log_probs, labels, prior)
    figures = [_accuracies(learned, *some) for some in (speech, balanced)]
    (accuracy, now), (even, even_now) = figures
    return Outcome(accuracy, now - accuracy, even, even_now - even, promoted)


def _with_biases(log_probs: Floats, labels: LabelArrays, prior: Floats) -> tuple[VectorScaling, bool]:
    """What a night with biases alone learns, and whether it is promoted."""
    settings = NightlySettings.load()
    parts = folds_of(len(labels), settings.folds)
    after, before = np.empty_like(log_probs), log_probs + prior
    for part in range(settings.folds):
        fitted = VectorScaling.fit(log_probs[parts != part], labels.at(parts != part), settings.bias_spread, prior=prior)
        after[parts == part] = fitted.of_speech(log_probs[parts == part])
    chances = p_by_chance(after, labels, parts, draws=_DRAWS), p_no_better(before, after, labels, draws=_DRAWS)
    promoted = max(chances) <= ALPHA and net_gain(before, after, labels) > 0
    return VectorScaling.fit(log_probs, labels, settings.bias_spread, prior=prior), promoted


def _accuracies(learned: VectorScaling, log_probs: Floats, acted: Ints) -> tuple[float, float]:
    answers = (log_probs + learned.prior).argmax(axis=1), learned.of_speech(log_probs).argmax(axis=1)
    before, after = (float((one == acted).mean()) for one in answers)
    return before, after


# other voices ----------------------------------------------------------------------------------------------------


def voices(found: Sequence[StudyPerson], bundle: Bundle, prior: Floats) -> list[str]:
    """How often the rehearsal set lets a bundle pass that lost so much on other voices, and what biases of people lose there."""
    public, letters = read_rehearsal_set(bundle.folder), bundle.manifest.letters
    clips = public.measured_with
    before = np.log(np.maximum(torch.stack([clip.posterior for clip in clips]).double().numpy(), _FLOOR)) / public.temperature
    acted, speakers = acted_letters(clips, letters), [clip.speaker for clip in clips]
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
    lines += [*markdown_table(["answers that say nothing", "true fall", "pass"], rows), ""]
    falls = []
    for number, (person, (share, confirms)) in enumerate(product(found, _LIVES[:4])):
        life = SimulatedLife(person, share, confirms, letters.index(Emotion.NEUTRAL), prior)
        log_probs, labels = life.labels(100, np.random.default_rng(number))
        learned = VectorScaling.fit(log_probs, labels, NightlySettings.load().bias_spread, prior=prior)
        falls.append(other_voices(before, learned.scale * before + learned.bias, acted, speakers))
    lost = [float(np.nanmean(one.before) - np.nanmean(one.after)) for one in falls]
    passed = np.mean([one.at_least >= -one.margin for one in falls])
    told = f"Biases from 100 labels of {len(found)} people lose {np.median(lost):.3f} there in the median, {max(lost):.3f} at most"
    return [*lines, f"{told}; {passed:.3f} pass."]


# on real clips ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    """Unweighted accuracy on a person's other clips: before, with biases alone, and with a whole night, NaN where there was none.

    promoted: biases alone.
    """

    person: str
    labels: int
    before: float
    biases: float
    promoted: bool
    night: float = float("nan")
    decision: PromotionDecision | None = None


def gains(
    found: Sequence[StudyPerson],
    bundle: Bundle,
    prior: Floats,
    counts: Sequence[int],
    *,
    nights: int,
    confirms: float,
    shuffled: bool,
    whole: bool,
) -> list[str]:
    """A table by labels, and one of whole nights. prior (L,): see Life."""
    measured = [
        one
        for person in found
        for draw in range(nights)
        for one in _nights(person, bundle, prior, counts, draw, confirms=confirms, shuffled=shuffled, whole=whole and not draw)
    ]
    rows, each = [], []
    for count in counts:
        some = [one for one in measured if one.labels == count]
        if some:
            used = np.mean([one.biases if one.promoted else one.before for one in some])
            before, biases = np.mean([one.before for one in some]), np.mean([one.biases for one in some])
            promoted = np.mean([one.promoted for one in some])
            figures = [f"{before:.3f}", f"{biases:.3f}", f"{promoted:.2f}", f"{used:.3f}"]
            rows.append([count, len({one.person for one in some}), len(some), *figures])
    for one in measured:
        if one.decision is not None:
            own = one.decision.own
            told = f"{own.gained}, {own.lost}; {own.p_no_better:.3f}, {own.p_by_chance:.3f}" if own else ""
            figures = [f"{value:.3f}" for value in (one.before, one.biases, one.night)]
            each.append([one.person, one.labels, *figures, one.decision.steps, told, one.decision.verdict, f"{one.decision.seconds:.0f}"])
    head = ["labels", "people", "nights", "no night", "biases alone", "promoted", "as used"]
    of_each = ["person", "labels", "no night", "biases alone", "night", "steps", "gained, lost; p better, p chance", "verdict", "s"]
    return [*markdown_table(head, rows), "", *(markdown_table(of_each, each) if each else [])]


def _nights(
    person: StudyPerson, bundle: Bundle, prior: Floats, counts: Sequence[int], draw: int, *, confirms: float, shuffled: bool, whole: bool
) -> Iterator[Measured]:
    rng = np.random.default_rng([draw, *person.name.encode()])
    test, rest = np.flatnonzero(person.tested), rng.permutation(np.flatnonzero(~person.tested))
    shown = (person.log_probs + prior).argmax(axis=1)
    said = rest[rng.random(len(rest)) < np.where(shown[rest] == person.acted[rest], confirms, 1.0)]
    words = rng.permutation(person.acted[said]) if shuffled else person.acted[said]
    for count in counts:
        if count > len(said):
            continue
        labels = LabelArrays(words[:count], shown[said[:count]], words[:count] != shown[said[:count]], np.ones(count))
        biases, promoted = _with_biases(person.log_probs[said[:count]], labels, prior)
        rows = person.log_probs[test] + prior, biases.of_speech(person.log_probs[test])
        one = Measured(person.name, count, *(_uar(person.acted[test], some) for some in rows), promoted)
        if whole:
            night, decision = _whole(person, bundle, said[:count], labels, test)
            one = replace(one, night=night, decision=decision)
            print(one, file=sys.stderr, flush=True)
        yield one


def _whole(person: StudyPerson, bundle: Bundle, said: Ints, labels: LabelArrays, test: Ints) -> tuple[float, PromotionDecision]:
    letters = bundle.manifest.letters
    pieces = [_piece(person, i, k, letters[labels.said[k]], letters[labels.shown[k]]) for k, i in enumerate(said)]
    settings = NightlySettings.load().model_copy(update={"least_labels": 1, "least_corrections": 0})
    with tempfile.TemporaryDirectory() as name:
        night = NightlyRetraining(bundle.folder, Path(name) / "work", settings=settings, heard_with=person.heard_with)
        decision = night.learn(pieces, Path(name) / "new")
    learned = night.bundle.under(Prior.named(person.heard_with.prior))
    calibration = decision.calibration
    changed = {"letter_bias": decision.letter_bias, "temperature": calibration.temperature_after if calibration else 1.0}
    learned = replace(learned, manifest=learned.manifest.model_copy(update=changed))
    answers = predict_states(learned, night.llm, person.states(test), [SpeechInput(np.zeros(0, np.float32))] * len(test))
    return _uar(person.acted[test], np.array([[one.posterior[letter] for letter in letters] for one in answers])), decision


def _piece(person: StudyPerson, clip: int, number: int, word: Emotion, shown: Emotion) -> LabelledSegment:
    pcm = float_to_pcm16(read_audio(person.clips[clip].path))
    kind = LabelKind.CONFIRMATION if word is shown else LabelKind.CORRECTION
    return LabelledSegment(number, _BEGIN + timedelta(hours=number), pcm, word, kind, shown)


def _uar(acted: Ints, rows: Floats) -> float:
    return unweighted_accuracy(acted, rows.argmax(axis=1), rows.shape[1])


if __name__ == "__main__":
    main()
