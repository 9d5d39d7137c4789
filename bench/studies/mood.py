"""Whether a person who becomes sad is still heard as sad by a bundle that knows their voice.

    python -m bench.studies.mood BUNDLE MANIFEST [--corpus A,B]

Clips of people whom nothing was trained on are arranged as days of speech: five days of a mostly neutral mood, then weeks of the same mood,
then weeks of a mostly sad one. They are judged without a reference of the voice, with one that was built from the first five days and then
frozen, and with one that follows: the mean of everything until the day before. The first five days are made of one half of a person's
clips, the weeks of the other half, so that a frozen reference has heard nothing of what it is asked about.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.harness import markdown_table
from model.bundle_format import find_bundle
from model.emotions import Emotion
from model.errors import TrainingError
from train.corpora.manifest import Utterance, read_corpus_manifest
from train.evaluation.evaluate import EvaluatedBundle
from train.evaluation.inference import require_transcripts
from train.evaluation.metrics import Floats, interval_95
from train.evaluation.personalization import BundleSpeakerPredictor, EncodedPerson, SpeakerPredictor, group_by_person
from train.evaluation.results import UtterancePrediction
from train.workers import Progress

REFERENCES = ("none", "frozen", "following")
_FIRST_DAYS, _WEEK = 5, 7
_LEAST_CLIPS = 4  # of neutral and of sad speech each
_DRAWS = 2000
# Shares of a day's segments; what is left is of the person's other emotions.
_CALM: Mapping[Emotion, float] = {Emotion.NEUTRAL: 0.8, Emotion.SAD: 0.08}
_SAD: Mapping[Emotion, float] = {Emotion.NEUTRAL: 0.2, Emotion.SAD: 0.7}


@dataclass(frozen=True, slots=True)
class MoodPlan:
    """How many weeks of each mood follow the first five days, and how many segments a day has."""

    calm_weeks: int = 3
    sad_weeks: int = 4
    segments: int = 20

    @property
    def weeks(self) -> list[Mapping[Emotion, float]]:
        """The shares of each week."""
        return [_CALM] * self.calm_weeks + [_SAD] * self.sad_weeks


_MOOD_PLAN = MoodPlan()


@dataclass(slots=True)
class Tally:
    """Of some segments: how many were judged, how many of these surely, how many surely as sad, and the sum of sad's probabilities."""

    segments: int = 0
    sure: int = 0
    surely_sad: int = 0
    probability: float = 0.0

    def add(self, judged: UtterancePrediction) -> None:
        """Count one segment."""
        sure = not judged.unsure and judged.emotion is not None
        self.segments += 1
        self.sure += sure
        self.surely_sad += sure and judged.emotion is Emotion.SAD
        self.probability += judged.posterior.get(Emotion.SAD, 0.0) if judged.posterior else 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.segments + other.segments,
            self.sure + other.sure,
            self.surely_sad + other.surely_sad,
            self.probability + other.probability,
        )

    @property
    def of_sure(self) -> float:
        """The share of the sure answers that are sad, NaN where none is sure."""
        return self.surely_sad / self.sure if self.sure else float("nan")

    @property
    def mean_probability(self) -> float:
        """The mean probability of sad, NaN without segments."""
        return self.probability / self.segments if self.segments else float("nan")


@dataclass(slots=True)
class MoodLife:
    """One person's weeks. sad: the true share of each; tallies: by reference, of each."""

    corpus: str
    sad: list[float] = field(default_factory=list)
    tallies: dict[str, list[Tally]] = field(default_factory=lambda: {reference: [] for reference in REFERENCES})


def mood_study(bundle: Path, utterances: Sequence[Utterance], plan: MoodPlan = _MOOD_PLAN, seed: int = 0) -> str:
    """The tables in Markdown for a bundle with personal normalisation. Raises TrainingError, BundleError, FormatError."""
    asked = EvaluatedBundle.of_bundle(bundle)
    require_transcripts(utterances, asked.style.strategy)
    lives = replay(BundleSpeakerPredictor(asked.bundle, asked.llm, asked.style), utterances, plan, seed)
    return "\n".join([f"# {asked.bundle.manifest.version}: {len(lives)} people", "", *to_lines(lives, plan)])


def replay(predictor: SpeakerPredictor, utterances: Sequence[Utterance], plan: MoodPlan = _MOOD_PLAN, seed: int = 0) -> list[MoodLife]:
    """The weeks of everybody with at least four neutral and four sad clips. Raises TrainingError where there is nobody."""
    people = {name: clips for name, clips in group_by_person(utterances).items() if _has_both(clips)}
    if not people:
        raise TrainingError(f"nobody in this manifest has {_LEAST_CLIPS} neutral and {_LEAST_CLIPS} sad clips")
    lives = []
    with Progress("people", len(people)) as progress:
        for number, (name, clips) in enumerate(people.items()):
            lives.append(_live(EncodedPerson(predictor, clips), plan, np.random.default_rng([seed, *name.encode()])))
            predictor.clear()
            progress.advance(number)
    return lives


def to_lines(lives: Sequence[MoodLife], plan: MoodPlan) -> list[str]:
    """A table of the weeks and one of the rise of sad for each corpus."""
    by_corpus: dict[str, list[MoodLife]] = defaultdict(list)
    for life in lives:
        by_corpus[life.corpus].append(life)
    lines = []
    for corpus, its in sorted(by_corpus.items()):
        lines += [f"## {corpus}, {len(its)} people, {plan.segments} segments a day", "", *_weeks(its, plan), ""]
        lines += [*_rises(its, plan), ""]
    return lines


def _has_both(clips: Sequence[Utterance]) -> bool:
    return all(sum(clip.emotion is emotion for clip in clips) >= _LEAST_CLIPS for emotion in (Emotion.NEUTRAL, Emotion.SAD))


def _live(person: EncodedPerson, plan: MoodPlan, rng: np.random.Generator) -> MoodLife:
    life = MoodLife(person.clips[0].corpus)
    first, later = _halves(person.clips, rng)
    heard = [place for _ in range(_FIRST_DAYS) for place in _day(first, _CALM, plan.segments, rng)]
    frozen = so_far = person.sums(heard)
    with_frozen = person.judged(range(len(person.clips)), frozen)
    for shares in plan.weeks:
        sad, tallies = 0, {reference: Tally() for reference in REFERENCES}
        for _ in range(_WEEK):
            today = _day(later, shares, plan.segments, rng)
            different = sorted(set(today))
            following = dict(zip(different, person.judged(different, so_far), strict=True))
            for place in today:
                sad += person.clips[place].emotion is Emotion.SAD
                for reference, judged in zip(REFERENCES, (person.plain, with_frozen, following), strict=True):
                    tallies[reference].add(judged[place])
            so_far = person.sums(today, so_far)
        life.sad.append(sad / (_WEEK * plan.segments))
        for reference, tally in tallies.items():
            life.tallies[reference].append(tally)
    return life


def _halves(clips: Sequence[Utterance], rng: np.random.Generator) -> tuple[dict[Emotion, list[int]], dict[Emotion, list[int]]]:
    """The places of a person's clips by emotion, divided in two."""
    places: dict[Emotion, list[int]] = defaultdict(list)
    for place, clip in enumerate(clips):
        if clip.emotion is not None:
            places[clip.emotion].append(place)
    halves: tuple[dict[Emotion, list[int]], dict[Emotion, list[int]]] = {}, {}
    for emotion, its in sorted(places.items()):
        drawn = [its[i] for i in rng.permutation(len(its))]
        for half, part in zip(halves, (drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]), strict=True):
            if part:
                half[emotion] = part
    return halves


def _day(places: Mapping[Emotion, Sequence[int]], shares: Mapping[Emotion, float], segments: int, rng: np.random.Generator) -> list[int]:
    """The places of a day's segments, drawn with replacement."""
    others = [emotion for emotion in places if emotion not in shares]
    rest = (1 - sum(shares.values())) / len(others) if others else 0.0
    weights = np.array([shares.get(emotion, rest) for emotion in places])
    emotions = rng.choice(len(weights), segments, p=weights / weights.sum())
    each = list(places.values())
    return [int(rng.choice(each[number])) for number in emotions]


def _weeks(lives: Sequence[MoodLife], plan: MoodPlan) -> list[str]:
    rows = []
    for week in range(len(plan.weeks)):
        mood = "calm" if week < plan.calm_weeks else "sad"
        cells = []
        for reference in REFERENCES:
            together = sum((life.tallies[reference][week] for life in lives), Tally())
            cells.append(f"{together.of_sure:.0%}, {together.mean_probability:.0%}, {together.sure / together.segments:.0%}")
        rows.append([f"{week + 1}, {mood}", f"{np.mean([life.sad[week] for life in lives]):.0%}", *cells])
    head = [f"{reference}: sad of the sure, sad's probability, sure" for reference in REFERENCES]
    return markdown_table(["week", "really sad", *head], rows)


def _rises(lives: Sequence[MoodLife], plan: MoodPlan) -> list[str]:
    """How much more sad there is in the sad weeks than in the calm ones, of all people together, resampled over people."""
    really = [float(np.mean(life.sad[plan.calm_weeks :]) - np.mean(life.sad[: plan.calm_weeks])) for life in lives]
    people = np.random.default_rng(0).integers(len(lives), size=(_DRAWS, len(lives)))
    rows = [["really", f"{np.mean(really):+.3f}", "", "", ""]]
    for reference in REFERENCES:
        # (people, moods, counts)
        counts = np.array([[_counts(part) for part in _moods(life.tallies[reference], plan)] for life in lives])
        cells = []
        for part, whole in ((2, 1), (3, 0)):
            value, drawn = (_rise(some, part, whole) for some in (counts.sum(axis=0), counts[people].sum(axis=1)))
            low, high = interval_95(drawn)
            cells += [f"{float(value):+.3f}", f"{low:+.3f} to {high:+.3f}"]
        rows.append([reference, *cells])
    return markdown_table(["reference", "rise of sad among the sure", "95 %", "rise of sad's probability", "95 %"], rows)


def _moods(tallies: Sequence[Tally], plan: MoodPlan) -> tuple[Tally, Tally]:
    return sum(tallies[: plan.calm_weeks], Tally()), sum(tallies[plan.calm_weeks :], Tally())


def _counts(tally: Tally) -> tuple[float, float, float, float]:
    return tally.segments, tally.sure, tally.surely_sad, tally.probability


def _rise(counts: Floats, part: int, whole: int) -> Floats:
    """Of counts (..., moods, 4) the share `part` / `whole` in the second mood minus that in the first; 0 where nothing is sure."""
    shares = counts[..., part] / np.maximum(counts[..., whole], 1)
    rise: Floats = shares[..., 1] - shares[..., 0]
    return rise


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="a built-in bundle or a folder, with personal normalisation")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--corpus", help="only these corpora, with commas between")
    parser.add_argument("--segments", type=int, default=_MOOD_PLAN.segments, help="of a day (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    wanted = options.corpus.split(",") if options.corpus else None
    utterances = [u for u in read_corpus_manifest(options.manifest) if u.emotion is not None and (wanted is None or u.corpus in wanted)]
    print(mood_study(find_bundle(options.bundle), utterances, MoodPlan(segments=options.segments), options.seed))


if __name__ == "__main__":
    main()
