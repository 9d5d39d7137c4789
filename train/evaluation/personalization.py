"""What knowing a speaker is worth: their clips predicted after so many minutes of their own speech, none of it among those clips.

Each draw keeps about half of a person's clips for the test, the same for every number of minutes. From the others a voice reference is
built as everyday speech would build it: mostly from neutral clips, while there are some. Every clip is encoded once and predicted again
with other references. D encoder width, T encoder states of a clip.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from itertools import compress
from operator import add
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.audio import Float32, samples_to_s
from model.bundle import Bundle
from model.emotions import Emotion
from model.errors import TrainingError
from model.language_model import LanguageModel
from model.predictor import Predictor, PredictorOutput, PromptStyle, SpeechInput
from model.speech_encoder import SpeechEncoder
from model.voice_reference import VoiceSums, voice_shift
from train.corpora.manifest import Utterance
from train.evaluation.figures import PersonalFigures, ReferenceFigures
from train.evaluation.inference import outlier_figures, speech_input, utterance_prediction
from train.evaluation.results import UtterancePrediction, group_figures, people_figures, speaker_key
from train.workers import Progress


class SpeakerPredictor(Protocol):
    """Whatever answers about a person's clips with and without a reference of their voice."""

    def predict(self, sounds: Sequence[SpeechInput], shift: Float32 | None = None) -> list[PredictorOutput]:
        """As Predictor.predict; every answer has its `sums`."""
        ...

    def shift_of(self, sums: VoiceSums | None) -> Float32:
        """What a reference of these sums subtracts from every state: (D,)."""
        ...

    def clear(self) -> None:
        """Another person follows; what is kept of this one's clips may go."""
        ...


class BundleSpeakerPredictor:
    """A bundle in a style. Raises TrainingError where it was trained without personal normalisation."""

    def __init__(self, bundle: Bundle, llm: LanguageModel, style: PromptStyle) -> None:
        if bundle.reference_settings is None:
            raise TrainingError(
                f"the bundle {bundle.manifest.version} was trained without personal normalisation: a person's speech changes none of its"
                " answers; leave --person-minutes out, or name a bundle with `normalisation` in its bundle.json"
            )
        self._settings = bundle.reference_settings
        self._encoder = CachingEncoder(bundle.encoder)
        self._predictor = Predictor(replace(bundle, encoder=self._encoder), llm, style)

    def predict(self, sounds: Sequence[SpeechInput], shift: Float32 | None = None) -> list[PredictorOutput]:
        """See SpeakerPredictor."""
        return self._predictor.predict(sounds, shift)

    def shift_of(self, sums: VoiceSums | None) -> Float32:
        """See SpeakerPredictor."""
        return voice_shift(sums, self._settings)

    def clear(self) -> None:
        """See SpeakerPredictor."""
        self._encoder.kept.clear()


class CachingEncoder(SpeechEncoder):
    """A frozen encoder that keeps, in half precision, the states of all it has heard, so that nothing is encoded twice.

    kept: states (T, D) by a hash of the sound. Clear it when they take too much room: about 100 KB a second of sound.
    """

    def __init__(self, encoder: SpeechEncoder) -> None:
        super().__init__()
        self._encoder = encoder
        self.width = encoder.width
        self.kept: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def forward(self, audio: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """See SpeechEncoder; states are rounded to half precision, whether they were kept or not."""
        keys = [hashlib.sha256(clip.numpy().tobytes()).digest() for clip in audio]
        new = {key: clip for key, clip in zip(keys, audio, strict=True) if key not in self.kept}
        if new:
            states, mask = self._encoder(list(new.values()))
            self.kept |= {key: row[real].half().cpu() for key, row, real in zip(new, states, mask, strict=True)}
        rows = [self.kept[key].float() for key in keys]
        mask = pad_sequence([row.new_ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
        return pad_sequence(rows, batch_first=True), mask


# Of everyday speech; each draw takes a share between these two.
_NEUTRAL_SHARES = (0.7, 0.9)
# What may become part of a reference; the rest is judged. Of neutral clips more, as a day has more of them than a corpus.
_POOL = {Emotion.NEUTRAL: 2 / 3}
_POOL_OF_OTHERS = 1 / 2
_AT_ONCE = 16
# The first answers of a stranger; then a reference is renewed whenever it holds twice as much.
_FIRST_CLIPS = 8


@dataclass(slots=True)
class EnrolmentPoint:
    """Answers after so many minutes of speech, those of all people and draws one after the other.

    speech_s, neutral_s: by CORPUS/SPEAKER, how much speech the references hold in all draws together, and how much of it is neutral.
    """

    minutes: float
    judged: list[UtterancePrediction] = field(default_factory=list)
    speech_s: dict[str, float] = field(default_factory=dict)
    neutral_s: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PeoplePredictions:
    """All clips of all people without a reference, and those that each draw kept for judging with one.

    before: the answers without a reference to the clips of every point, in their order.
    """

    judged: list[UtterancePrediction]
    before: list[UtterancePrediction]
    points: list[EnrolmentPoint]
    draws: int


def predict_people(
    predictor: SpeakerPredictor, utterances: Sequence[Utterance], minutes: Sequence[float], *, draws: int, seed: int
) -> PeoplePredictions:
    """Judge everybody's clips. minutes: how much of a person's speech the reference is built from; people with less give what they have.

    Clips without an emotion count as neutral ones. Those whose speaker is not known are left out. Raises FormatError.
    """
    result = PeoplePredictions([], [], [EnrolmentPoint(one) for one in minutes], draws)
    people = group_by_person(utterances)
    with Progress("people", len(people)) as progress:
        for number, (name, clips) in enumerate(people.items()):
            one = EncodedPerson(predictor, clips)
            result.judged.extend(one.plain)
            for draw in range(draws):
                # A person's draws do not depend on who else is there.
                rng = np.random.default_rng([seed, draw, *name.encode()])
                _add_draw(result, name, one, rng)
            predictor.clear()
            progress.advance(number)
    return result


def predict_unknown_and_known(
    bundle: Bundle, llm: LanguageModel, utterances: Sequence[Utterance], style: PromptStyle, seed: int = 0
) -> tuple[list[UtterancePrediction], list[UtterancePrediction]]:
    """Everybody's clips, first as a stranger's, then with a reference of all clips of the speaker; without a known speaker, only once.

    Both are in the order of `utterances`. Raises TrainingError for a bundle that does not normalise; FormatError.
    """
    predictor = BundleSpeakerPredictor(bundle, llm, style)
    strange: dict[Path, UtterancePrediction] = {}
    known: dict[Path, UtterancePrediction] = {}
    people = group_by_person(utterances)
    nobody = [[utterance] for utterance in utterances if not utterance.speaker]
    with Progress("voices", len(people) + len(nobody)) as progress:
        for number, clips in enumerate([*people.values(), *nobody]):
            one = EncodedPerson(predictor, clips)
            strange |= {clip.path: judged for clip, judged in zip(clips, one.plain, strict=True)}
            if clips[0].speaker:
                order = np.random.default_rng([seed, len(clips)]).permutation(len(clips)).tolist()
                judged = one.judged(range(len(clips)), one.sums(order))
                known |= {clip.path: answer for clip, answer in zip(clips, judged, strict=True)}
            predictor.clear()
            progress.advance(number)
    return [strange[one.path] for one in utterances], [known[one.path] for one in utterances if one.path in known]


def personal_figures(result: PeoplePredictions, letters: Sequence[Emotion], calm: Collection[str]) -> list[PersonalFigures]:
    """The figures of each number of minutes. calm: the corpora in which no emotion is acted."""
    acted = np.array([one.utterance.corpus not in calm for one in result.before], dtype=np.bool_)
    before = list(compress(result.before, acted))
    found = []
    for point in result.points:
        judged = list(compress(point.judged, acted))
        resting: dict[str, list[UtterancePrediction]] = defaultdict(list)
        for one in compress(point.judged, ~acted):
            resting[one.utterance.corpus].append(one)
        reference = partial(_reference_figures, point, result.draws)
        found.append(
            PersonalFigures(
                minutes=point.minutes,
                draws=result.draws,
                groups=group_figures(judged, letters, repeats=result.draws, before=before, reference=reference) if judged else [],
                people=people_figures(judged, letters, repeats=result.draws),
                outliers=[
                    outlier_figures(
                        corpus, its, letters, repeats=result.draws, reference=reference({speaker_key(one.utterance) for one in its})
                    )
                    for corpus, its in sorted(resting.items())
                ],
            )
        )
    return found


def group_by_person(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    """The utterances of each known speaker, by CORPUS/SPEAKER."""
    people: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        if utterance.speaker:
            people[speaker_key(utterance)].append(utterance)
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


class EncodedPerson:
    """One person's clips, encoded once. plain: the answers without a reference. seconds: how long each clip is."""

    def __init__(self, predictor: SpeakerPredictor, clips: Sequence[Utterance]) -> None:
        self.clips = clips
        self._predictor = predictor
        self._sounds = [speech_input(clip) for clip in clips]
        self.seconds = [samples_to_s(len(sound.audio)) for sound in self._sounds]
        answers = self._answers(range(len(clips)), None)
        self._sums = [answer.sums for answer in answers]
        self.plain = [utterance_prediction(clip, answer) for clip, answer in zip(clips, answers, strict=True)]

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

    def judged(self, places: Sequence[int], reference: VoiceSums | None) -> list[UtterancePrediction]:
        """Some clips with a reference."""
        answers = self._answers(places, self._predictor.shift_of(reference))
        return [utterance_prediction(self.clips[place], answer) for place, answer in zip(places, answers, strict=True)]

    def _answers(self, places: Sequence[int], shift: Float32 | None) -> list[PredictorOutput]:
        found: list[PredictorOutput] = []
        for first in range(0, len(places), _AT_ONCE):
            found += self._predictor.predict([self._sounds[place] for place in places[first : first + _AT_ONCE]], shift)
        return found


def _add_draw(result: PeoplePredictions, name: str, one: EncodedPerson, rng: np.random.Generator) -> None:
    order, places = everyday(one.clips, rng)
    plain = [one.plain[place] for place in places]
    result.before.extend(plain)
    judged_with: dict[int, list[UtterancePrediction]] = {0: plain}
    ends = np.cumsum([one.seconds[place] for place in order])
    for point in result.points:
        size = 0 if point.minutes == 0 else min(int(np.searchsorted(ends, point.minutes * 60)) + 1, len(order))
        if size not in judged_with:
            judged_with[size] = one.judged(places, one.sums(order[:size]))
        point.judged.extend(judged_with[size])
        neutral = [place for place in order[:size] if one.clips[place].emotion in (None, Emotion.NEUTRAL)]
        for total, enrolled in ((point.speech_s, order[:size]), (point.neutral_s, neutral)):
            total[name] = total.get(name, 0.0) + sum(one.seconds[place] for place in enrolled)


def _reference_figures(point: EnrolmentPoint, draws: int, names: Collection[str]) -> ReferenceFigures:
    speech, neutral = (sum(total[name] for name in names) for total in (point.speech_s, point.neutral_s))
    return ReferenceFigures(minutes=speech / 60 / draws / len(names), neutral_share=neutral / speech if speech else None)
