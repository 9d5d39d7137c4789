"""What knowing a person is worth: their clips judged after so many minutes of their own speech, none of which is among those clips.

Each draw keeps about half of a person's clips for judging, the same for every number of minutes. From the others a reference of their
voice is built as everyday speech would build it: mostly from neutral clips, while there are some.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from itertools import compress
from operator import add
from pathlib import Path

import numpy as np

from model.audio import Float32, samples_to_s
from model.bundle import Bundle
from model.predictor import Answered, Style
from model.request import LanguageModel
from model.types import Emotion
from model.voice_reference import VoiceSums
from train.corpora.manifest import Utterance
from train.progress import Progress
from train.scoring.evaluation import PersonalFigures, ReferenceFigures
from train.scoring.judging import judged_as, sound_of
from train.scoring.outliers import outlier_figures
from train.scoring.results import Judged, groups_of, people_of, person
from train.scoring.speaker_predictor import BundleSpeakerPredictor, SpeakerPredictor

# Of everyday speech; each draw takes a share between these two.
_NEUTRAL_SHARES = (0.7, 0.9)
# What may become part of a reference; the rest is judged. Of neutral clips more, as a day has more of them than a corpus.
_POOL = {Emotion.NEUTRAL: 2 / 3}
_POOL_OF_OTHERS = 1 / 2
_AT_ONCE = 16
# The first answers of a stranger; then a reference is renewed whenever it holds twice as much.
_FIRST_CLIPS = 8


@dataclass(slots=True)
class Point:
    """Answers after so many minutes of speech, those of all people and draws one after the other.

    speech_s, neutral_s: by CORPUS/SPEAKER, how much speech the references hold in all draws together, and how much of it is neutral.
    """

    minutes: float
    judged: list[Judged] = field(default_factory=list)
    speech_s: dict[str, float] = field(default_factory=dict)
    neutral_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PeopleJudged:
    """All clips of all people without a reference, and those that each draw kept for judging with one.

    before: the answers without a reference to the clips of every point, in their order.
    """

    judged: list[Judged]
    before: list[Judged]
    points: list[Point]
    draws: int


def judge_people(
    predictor: SpeakerPredictor, utterances: Sequence[Utterance], minutes: Sequence[float], *, draws: int, seed: int
) -> PeopleJudged:
    """Judge everybody's clips. minutes: how much of a person's speech the reference is built from; people with less give what they have.

    Clips without an emotion count as neutral ones. Those whose speaker is not known are left out. Raises FormatError.
    """
    result = PeopleJudged([], [], [Point(one) for one in minutes], draws)
    people = by_person(utterances)
    with Progress("people", len(people)) as progress:
        for number, (name, clips) in enumerate(people.items()):
            one = Person(predictor, clips)
            result.judged.extend(one.plain)
            for draw in range(draws):
                # A person's draws do not depend on who else is there.
                rng = np.random.default_rng([seed, draw, *name.encode()])
                _add_draw(result, name, one, rng)
            predictor.clear()
            progress.advance(number)
    return result


def judge_strange_and_known(
    bundle: Bundle, llm: LanguageModel, utterances: Sequence[Utterance], style: Style, seed: int = 0
) -> tuple[list[Judged], list[Judged]]:
    """Everybody's clips, first as a stranger's, then with a reference of all clips of the speaker; without a known speaker, only once.

    Both are in the order of `utterances`. Raises TrainingError for a bundle that does not normalise; FormatError.
    """
    predictor = BundleSpeakerPredictor(bundle, llm, style)
    strange: dict[Path, Judged] = {}
    known: dict[Path, Judged] = {}
    people = by_person(utterances)
    nobody = [[utterance] for utterance in utterances if not utterance.speaker]
    with Progress("voices", len(people) + len(nobody)) as progress:
        for number, clips in enumerate([*people.values(), *nobody]):
            one = Person(predictor, clips)
            strange |= {clip.path: judged for clip, judged in zip(clips, one.plain, strict=True)}
            if clips[0].speaker:
                order = np.random.default_rng([seed, len(clips)]).permutation(len(clips)).tolist()
                judged = one.judged(range(len(clips)), one.sums(order))
                known |= {clip.path: answer for clip, answer in zip(clips, judged, strict=True)}
            predictor.clear()
            progress.advance(number)
    return [strange[one.path] for one in utterances], [known[one.path] for one in utterances if one.path in known]


def personal_figures(result: PeopleJudged, letters: Sequence[Emotion], calm: Collection[str]) -> list[PersonalFigures]:
    """The figures of each number of minutes. calm: the corpora in which no emotion is acted."""
    acted = np.array([one.utterance.corpus not in calm for one in result.before], dtype=np.bool_)
    before = list(compress(result.before, acted))
    found = []
    for point in result.points:
        judged = list(compress(point.judged, acted))
        resting: dict[str, list[Judged]] = defaultdict(list)
        for one in compress(point.judged, ~acted):
            resting[one.utterance.corpus].append(one)
        reference = partial(_reference, point, result.draws)
        found.append(
            PersonalFigures(
                minutes=point.minutes,
                draws=result.draws,
                groups=groups_of(judged, letters, repeats=result.draws, before=before, reference=reference) if judged else [],
                people=people_of(judged, letters, repeats=result.draws),
                outliers=[
                    outlier_figures(corpus, its, letters, repeats=result.draws, reference=reference({person(one.utterance) for one in its}))
                    for corpus, its in sorted(resting.items())
                ],
            )
        )
    return found


def by_person(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    """The utterances of each known speaker, by CORPUS/SPEAKER."""
    people: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        if utterance.speaker:
            people[person(utterance)].append(utterance)
    return dict(sorted(people.items()))


def everyday(clips: Sequence[Utterance], rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """The places of clips that a reference is built from, in their order, and of those that are judged.

    While there are neutral ones, 70 to 90 % of the former are neutral.
    """
    letters: dict[Emotion, list[int]] = defaultdict(list)
    for place, clip in enumerate(clips):
        letters[clip.emotion or Emotion.NEUTRAL].append(place)
    neutral, others, judged = list[int](), list[int](), list[int]()
    for letter, places in sorted(letters.items()):
        drawn = [places[i] for i in rng.permutation(len(places))]
        size = int(len(drawn) * _POOL.get(letter, _POOL_OF_OTHERS))
        (neutral if letter is Emotion.NEUTRAL else others).extend(drawn[:size])
        judged += drawn[size:]
    others = [others[i] for i in rng.permutation(len(others))]
    share, order = rng.uniform(*_NEUTRAL_SHARES), list[int]()
    while neutral or others:
        order.append((neutral if neutral and (not others or rng.random() < share) else others).pop())
    return order, sorted(judged)


class Person:
    """One person's clips, encoded once. plain: the answers without a reference. seconds: how long each clip is."""

    def __init__(self, predictor: SpeakerPredictor, clips: Sequence[Utterance]) -> None:
        self.clips = clips
        self._predictor = predictor
        self._sounds = [sound_of(clip) for clip in clips]
        self.seconds = [samples_to_s(len(sound.audio)) for sound in self._sounds]
        answers = self._answers(range(len(clips)), None)
        self._sums = [answer.sums for answer in answers]
        self.plain = [judged_as(clip, answer) for clip, answer in zip(clips, answers, strict=True)]

    def sums(self, places: Sequence[int], so_far: VoiceSums | None = None) -> VoiceSums | None:
        """The reference of the voice, `so_far` and some clips in their order; None where that is nothing.

        As in the monitor, each is judged with what is known of the voice by then: the better it is known, the better it is learned.
        """
        total = so_far
        done = 0
        while done < len(places):
            some = places[done : done + max(_FIRST_CLIPS, done)]
            found = [self._sums[place] for place in some] if total is None else self._learned(some, total)
            known = [one for one in (total, *found) if one is not None]
            total = reduce(add, known) if known else None
            done += len(some)
        return total

    def _learned(self, places: Sequence[int], total: VoiceSums) -> list[VoiceSums | None]:
        return [answer.sums for answer in self._answers(places, self._predictor.shift_of(total))]

    def judged(self, places: Sequence[int], reference: VoiceSums | None) -> list[Judged]:
        """Some clips with a reference."""
        answers = self._answers(places, self._predictor.shift_of(reference))
        return [judged_as(self.clips[place], answer) for place, answer in zip(places, answers, strict=True)]

    def _answers(self, places: Sequence[int], shift: Float32 | None) -> list[Answered]:
        found: list[Answered] = []
        for first in range(0, len(places), _AT_ONCE):
            found += self._predictor.predict([self._sounds[place] for place in places[first : first + _AT_ONCE]], shift)
        return found


def _add_draw(result: PeopleJudged, name: str, one: Person, rng: np.random.Generator) -> None:
    order, places = everyday(one.clips, rng)
    plain = [one.plain[place] for place in places]
    result.before.extend(plain)
    judged_with: dict[int, list[Judged]] = {0: plain}
    ends = np.cumsum([one.seconds[place] for place in order])
    for point in result.points:
        size = 0 if point.minutes == 0 else min(int(np.searchsorted(ends, point.minutes * 60)) + 1, len(order))
        if size not in judged_with:
            judged_with[size] = one.judged(places, one.sums(order[:size]))
        point.judged.extend(judged_with[size])
        neutral = [place for place in order[:size] if one.clips[place].emotion in (None, Emotion.NEUTRAL)]
        for total, enrolled in ((point.speech_s, order[:size]), (point.neutral_s, neutral)):
            total[name] = total.get(name, 0.0) + sum(one.seconds[place] for place in enrolled)


def _reference(point: Point, draws: int, names: Collection[str]) -> ReferenceFigures:
    speech, neutral = (sum(total[name] for name in names) for total in (point.speech_s, point.neutral_s))
    return ReferenceFigures(minutes=speech / 60 / draws / len(names), neutral_share=neutral / speech if speech else None)
