"""The model of voices, on states that were made from known offsets: what emotions and speakers add is found again."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from model.errors import TrainingError
from model.types import Emotion
from train.learning.voice_model import Clips, Speaker, VoiceModel

WIDTH = 40
LETTERS = [Emotion.ANGRY, Emotion.SAD, Emotion.DISGUST, Emotion.NEUTRAL]
BETWEEN, WITHIN = 2.0, 1.0
"""Standard deviations between speakers, and within an emotion of one speaker."""


@dataclass(frozen=True)
class World:
    """Clips, and what they were made from: offsets of emotions (L, D), their mean 0, and of speakers (D,)."""

    emotions: Tensor
    speakers: dict[Speaker, Tensor]
    clips: Clips

    def fit(self, letters: Sequence[Emotion] = LETTERS) -> VoiceModel:
        return VoiceModel.fit(self.clips, letters)


def world(acted: Sequence[Sequence[Emotion]], takes: int = 8, within: float = WITHIN, neutral: Sequence[int] = ()) -> World:
    """A speaker for each entry of `acted`, with `takes` clips of each of the emotions there, or of reading where there are none.

    neutral: numbers of the speakers whose reading is said to be neutral.
    """
    random = torch.Generator().manual_seed(0)
    emotions = 3 * torch.randn(len(LETTERS), WIDTH, generator=random)
    emotions -= emotions.mean(dim=0)
    speakers = {("corpus", f"s{number}"): BETWEEN * torch.randn(WIDTH, generator=random) for number in range(len(acted))}
    states, letters, names, calm = list[Tensor](), list[Emotion | None](), list[Speaker](), list[bool]()
    for number, (speaker, offset) in enumerate(speakers.items()):
        for emotion in acted[number] or [None]:
            added = emotions[LETTERS.index(emotion or Emotion.NEUTRAL)]
            states += [offset + added + within * torch.randn(WIDTH, generator=random) for _ in range(takes)]
            letters += [emotion] * takes
            names += [speaker] * takes
            calm += [number in neutral] * takes
    return World(emotions, speakers, Clips(torch.stack(states), letters, names, calm))


def close(found: Tensor, true: Tensor, tolerance: float) -> bool:
    return found.shape == true.shape and bool((found - true).square().mean().sqrt() < tolerance)


def test_what_emotions_add_is_found_exactly_where_clips_do_not_vary() -> None:
    made = world([LETTERS] * 4, within=0.0)
    assert close(made.fit().emotion_offsets, made.emotions, 1e-4)


def test_what_emotions_add_is_found_up_to_what_clips_vary() -> None:
    made = world([LETTERS] * 20, takes=10)
    assert close(made.fit().emotion_offsets, made.emotions, 1.2 * WITHIN / (20 * 10) ** 0.5)


def test_an_emotion_that_some_speakers_never_acted_shifts_none_of_the_others() -> None:
    without = [letter for letter in LETTERS if letter is not Emotion.DISGUST]
    made = world([LETTERS, LETTERS, without, without, without], within=0.0)
    assert close(made.fit().emotion_offsets, made.emotions, 1e-4)


def test_a_letter_that_nobody_acted_adds_nothing() -> None:
    offsets = world([[Emotion.ANGRY, Emotion.NEUTRAL]] * 3).fit().emotion_offsets
    angry, sad, disgusted, neutral = offsets
    assert (sad == 0).all()
    assert (disgusted == 0).all()
    assert close(angry, -neutral, 1e-5)
    assert angry.std() > 1


@pytest.mark.parametrize("takes", [2, 10])
def test_the_ratio_is_that_of_the_variances_however_few_clips_tell(takes: int) -> None:
    """Clips vary four times as much as voices here, so two of each emotion tell little about a voice."""
    found = world([[Emotion.SAD, Emotion.NEUTRAL]] * 200, takes, within=2 * BETWEEN).fit().ratio
    assert found.median() == pytest.approx(4.0, rel=0.1)


def test_a_channel_in_which_voices_do_not_differ_tells_nothing_of_a_voice() -> None:
    made = world([LETTERS] * 6)
    for state, speaker in zip(made.clips.states, made.clips.speakers, strict=True):
        assert speaker is not None
        state[0] -= made.speakers[speaker][0]
    found = made.fit()
    assert found.ratio[0] > 10 * found.ratio[1:].max()
    assert max(abs(float(offset[0])) for offset in found.speakers.values()) < WITHIN / 8


def test_what_a_speaker_adds_is_found_and_shrunk_by_how_few_clips_tell_it() -> None:
    made = world([LETTERS] * 12, takes=2)
    found = made.fit()
    for speaker, offset in made.speakers.items():
        weight = 8 / (8 + found.ratio)
        assert close(found.speakers[speaker], weight * offset, 1.5 * WITHIN / 8**0.5)
        assert not close(found.speakers[speaker], torch.zeros(WIDTH), BETWEEN / 2)
    sure = world([LETTERS] * 12, takes=50)
    found = sure.fit()
    assert all(close(found.speakers[speaker], offset, 0.2) for speaker, offset in sure.speakers.items())


def test_a_speaker_of_one_emotion_is_placed_by_what_it_adds_to_others_and_tells_nothing_of_it() -> None:
    made, without = world([LETTERS] * 10 + [[Emotion.ANGRY]], takes=20), list(range(10 * 4 * 20))
    found, of_the_others = made.fit(), VoiceModel.fit(_some(made.clips, without), LETTERS)
    assert close(found.speakers["corpus", "s10"], made.speakers["corpus", "s10"], 0.5)
    assert torch.equal(found.emotion_offsets, of_the_others.emotion_offsets)
    assert torch.equal(found.ratio, of_the_others.ratio)


def _some(clips: Clips, places: Sequence[int]) -> Clips:
    chosen = [(clips.emotions[i], clips.speakers[i], clips.neutral[i]) for i in places]
    return Clips(clips.states[list(places)], *map(list, zip(*chosen, strict=True)))


def test_reading_places_a_voice_where_it_is_neutral_and_only_there() -> None:
    made = world([LETTERS] * 10 + [[], []], takes=20, neutral=[10])
    found = made.fit()
    assert close(found.speakers["corpus", "s10"], made.speakers["corpus", "s10"], 0.5)
    assert ("corpus", "s11") not in found.speakers


def test_speakers_of_the_same_name_in_two_corpora_are_two() -> None:
    clips = world([LETTERS] * 4).clips
    renamed = [("other", "s0") if speaker == ("corpus", "s1") else speaker for speaker in clips.speakers]
    found = VoiceModel.fit(Clips(clips.states, clips.emotions, renamed, clips.neutral), LETTERS)
    assert close(found.speakers["other", "s0"], VoiceModel.fit(clips, LETTERS).speakers["corpus", "s1"], 1e-6)


def test_clips_of_nobody_in_particular_tell_nothing() -> None:
    made = world([LETTERS] * 4)
    clips = made.clips
    nobody = Clips(
        torch.cat([clips.states, clips.states + 100]),
        [*clips.emotions, *clips.emotions],
        [*clips.speakers, *[None] * len(clips.speakers)],
        [*clips.neutral, *clips.neutral],
    )
    assert torch.equal(VoiceModel.fit(nobody, LETTERS).emotion_offsets, made.fit().emotion_offsets)


@pytest.mark.parametrize(
    ("acted", "takes", "letters", "told"),
    [
        ([LETTERS] * 2, 4, LETTERS, "there are 2 such speakers"),
        ([LETTERS] * 2 + [[Emotion.SAD]] * 5, 4, LETTERS, "there are 2 such speakers"),
        ([[Emotion.SAD, Emotion.ANGRY]] * 3, 4, [Emotion.SAD, Emotion.NEUTRAL], "there are 0 such speakers"),
        ([LETTERS] * 3, 1, LETTERS, "no more than one clip of an emotion"),
    ],
)
def test_too_few_voices_or_clips_are_refused(acted: Sequence[Sequence[Emotion]], takes: int, letters: list[Emotion], told: str) -> None:
    with pytest.raises(TrainingError, match=told):
        world(acted, takes).fit(letters)
