"""The teacher, the model of voices and simulated rooms, against values that are known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from model.audio import SAMPLE_RATE, Float32
from model.emotions import Emotion
from model.errors import TrainingError
from train.learning.augmentation import RoomAugmentation, add_noise, coloured_noise, random_excerpt, reverberate, telephone_line
from train.learning.voice_model import ClipStates, LinearTeacher, Speaker, VoiceModel

CLIPS, WIDTH, LETTERS = 150, 12, 3


def clips() -> tuple[Tensor, Tensor]:
    """Standardised states (n, D) around a centre for each letter, which overlap, and the letters (n,)."""
    random = torch.Generator().manual_seed(0)
    letters = torch.arange(CLIPS) % LETTERS
    centres = 0.7 * torch.randn(LETTERS, WIDTH, generator=random)
    return centres[letters] + torch.randn(CLIPS, WIDTH, generator=random), letters


def one_hot(letters: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(letters, LETTERS).float()


def regression(states: Tensor, letters: Tensor, weights: Tensor, l2: float) -> LogisticRegression:
    """scikit-learn minimises half of the squared weights plus C times the weighted sum of losses; here it is l2 of them plus a mean."""
    model = LogisticRegression(C=1 / (2 * l2), tol=1e-8, max_iter=5000)
    return model.fit(states.double().numpy(), letters.numpy(), (weights / weights.sum()).double().numpy())


@pytest.mark.parametrize("l2", [0.3, 0.025, 1e-3])
def test_it_is_multinomial_logistic_regression(l2: float) -> None:
    states, letters = clips()
    found = LinearTeacher.fit(states, one_hot(letters), torch.ones(CLIPS), l2)
    wanted = regression(states, letters, torch.ones(CLIPS), l2)
    assert found.weight.numpy() == pytest.approx(wanted.coef_, abs=5e-3)
    assert found.posterior(states).numpy() == pytest.approx(wanted.predict_proba(states.numpy()), abs=2e-3)
    # Only differences of biases mean something.
    assert (found.bias - found.bias.mean()).numpy() == pytest.approx(wanted.intercept_ - wanted.intercept_.mean(), abs=5e-3)


def test_a_clip_counts_as_much_as_its_importance_says_whatever_it_adds_up_to() -> None:
    states, letters = clips()
    importance = torch.linspace(0.1, 2.0, CLIPS)
    found = LinearTeacher.fit(states, one_hot(letters), importance, 0.025)
    wanted = regression(states, letters, importance, 0.025)
    assert found.posterior(states).numpy() == pytest.approx(wanted.predict_proba(states.numpy()), abs=2e-3)
    scaled = LinearTeacher.fit(states, one_hot(letters), 50 * importance, 0.025)
    assert torch.allclose(scaled.posterior(states), found.posterior(states), atol=1e-4)
    even = LinearTeacher.fit(states, one_hot(letters), torch.ones(CLIPS), 0.025)
    assert not torch.allclose(even.posterior(states), found.posterior(states), atol=0.02)


def test_a_soft_target_is_each_letter_as_often_as_it_says() -> None:
    states, letters = clips()
    targets = 0.6 * one_hot(letters) + 0.4 / LETTERS
    found = LinearTeacher.fit(states, targets, torch.ones(CLIPS), 0.025)
    repeated = torch.arange(LETTERS).repeat_interleave(CLIPS)
    wanted = regression(states.repeat(LETTERS, 1), repeated, targets.T.reshape(-1), 0.025)
    assert found.posterior(states).numpy() == pytest.approx(wanted.predict_proba(states.numpy()), abs=2e-3)


def test_states_that_tell_nothing_are_answered_as_often_as_the_targets_say() -> None:
    target = torch.tensor([0.84, 0.1, 0.06])
    found = LinearTeacher.fit(torch.zeros(40, WIDTH), target.repeat(40, 1), torch.ones(40), 0.025)
    assert found.posterior(torch.randn(5, WIDTH)).numpy() == pytest.approx(np.tile(target, (5, 1)), abs=1e-3)


CHANNELS = 40
FOUR_LETTERS = [Emotion.ANGRY, Emotion.SAD, Emotion.DISGUST, Emotion.NEUTRAL]
BETWEEN, WITHIN = 2.0, 1.0
"""Standard deviations between speakers, and within an emotion of one speaker."""


@dataclass(frozen=True)
class World:
    """Clips, and what they were made from: offsets of emotions (L, D), their mean 0, and of speakers (D,)."""

    emotions: Tensor
    speakers: dict[Speaker, Tensor]
    clips: ClipStates

    def fit(self, letters: Sequence[Emotion] = FOUR_LETTERS) -> VoiceModel:
        return VoiceModel.fit(self.clips, letters)


def world(acted: Sequence[Sequence[Emotion]], takes: int = 8, within: float = WITHIN, neutral: Sequence[int] = ()) -> World:
    """A speaker for each entry of `acted`, with `takes` clips of each of the emotions there, or of reading where there are none.

    neutral: numbers of the speakers whose reading is said to be neutral.
    """
    random = torch.Generator().manual_seed(0)
    emotions = 3 * torch.randn(len(FOUR_LETTERS), CHANNELS, generator=random)
    emotions -= emotions.mean(dim=0)
    speakers = {("corpus", f"s{number}"): BETWEEN * torch.randn(CHANNELS, generator=random) for number in range(len(acted))}
    states, letters, names, calm = list[Tensor](), list[Emotion | None](), list[Speaker](), list[bool]()
    for number, (speaker, offset) in enumerate(speakers.items()):
        for emotion in acted[number] or [None]:
            added = emotions[FOUR_LETTERS.index(emotion or Emotion.NEUTRAL)]
            states += [offset + added + within * torch.randn(CHANNELS, generator=random) for _ in range(takes)]
            letters += [emotion] * takes
            names += [speaker] * takes
            calm += [number in neutral] * takes
    return World(emotions, speakers, ClipStates(torch.stack(states), letters, names, calm))


def close(found: Tensor, true: Tensor, tolerance: float) -> bool:
    return found.shape == true.shape and bool((found - true).square().mean().sqrt() < tolerance)


def test_what_emotions_add_is_found_exactly_where_clips_do_not_vary() -> None:
    made = world([FOUR_LETTERS] * 4, within=0.0)
    assert close(made.fit().emotion_offsets, made.emotions, 1e-4)


def test_what_emotions_add_is_found_up_to_what_clips_vary() -> None:
    made = world([FOUR_LETTERS] * 20, takes=10)
    assert close(made.fit().emotion_offsets, made.emotions, 1.2 * WITHIN / (20 * 10) ** 0.5)


def test_an_emotion_that_some_speakers_never_acted_shifts_none_of_the_others() -> None:
    without = [letter for letter in FOUR_LETTERS if letter is not Emotion.DISGUST]
    made = world([FOUR_LETTERS, FOUR_LETTERS, without, without, without], within=0.0)
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
    made = world([FOUR_LETTERS] * 6)
    for state, speaker in zip(made.clips.states, made.clips.speakers, strict=True):
        assert speaker is not None
        state[0] -= made.speakers[speaker][0]
    found = made.fit()
    assert found.ratio[0] > 10 * found.ratio[1:].max()
    assert max(abs(float(offset[0])) for offset in found.speakers.values()) < WITHIN / 8


def test_what_a_speaker_adds_is_found_and_shrunk_by_how_few_clips_tell_it() -> None:
    made = world([FOUR_LETTERS] * 12, takes=2)
    found = made.fit()
    for speaker, offset in made.speakers.items():
        weight = 8 / (8 + found.ratio)
        assert close(found.speakers[speaker], weight * offset, 1.5 * WITHIN / 8**0.5)
        assert not close(found.speakers[speaker], torch.zeros(CHANNELS), BETWEEN / 2)
    sure = world([FOUR_LETTERS] * 12, takes=50)
    found = sure.fit()
    assert all(close(found.speakers[speaker], offset, 0.2) for speaker, offset in sure.speakers.items())


def test_a_speaker_of_one_emotion_is_placed_by_what_it_adds_to_others_and_tells_nothing_of_it() -> None:
    made, without = world([FOUR_LETTERS] * 10 + [[Emotion.ANGRY]], takes=20), list(range(10 * 4 * 20))
    found, of_the_others = made.fit(), VoiceModel.fit(_some(made.clips, without), FOUR_LETTERS)
    assert close(found.speakers["corpus", "s10"], made.speakers["corpus", "s10"], 0.5)
    assert torch.equal(found.emotion_offsets, of_the_others.emotion_offsets)
    assert torch.equal(found.ratio, of_the_others.ratio)


def _some(clips: ClipStates, places: Sequence[int]) -> ClipStates:
    chosen = [(clips.emotions[i], clips.speakers[i], clips.neutral[i]) for i in places]
    return ClipStates(clips.states[list(places)], *map(list, zip(*chosen, strict=True)))


def test_reading_places_a_voice_where_it_is_neutral_and_only_there() -> None:
    made = world([FOUR_LETTERS] * 10 + [[], []], takes=20, neutral=[10])
    found = made.fit()
    assert close(found.speakers["corpus", "s10"], made.speakers["corpus", "s10"], 0.5)
    assert ("corpus", "s11") not in found.speakers


def test_speakers_of_the_same_name_in_two_corpora_are_two() -> None:
    clips = world([FOUR_LETTERS] * 4).clips
    renamed = [("other", "s0") if speaker == ("corpus", "s1") else speaker for speaker in clips.speakers]
    found = VoiceModel.fit(ClipStates(clips.states, clips.emotions, renamed, clips.neutral), FOUR_LETTERS)
    assert close(found.speakers["other", "s0"], VoiceModel.fit(clips, FOUR_LETTERS).speakers["corpus", "s1"], 1e-6)


def test_clips_of_nobody_in_particular_tell_nothing() -> None:
    made = world([FOUR_LETTERS] * 4)
    clips = made.clips
    nobody = ClipStates(
        torch.cat([clips.states, clips.states + 100]),
        [*clips.emotions, *clips.emotions],
        [*clips.speakers, *[None] * len(clips.speakers)],
        [*clips.neutral, *clips.neutral],
    )
    assert torch.equal(VoiceModel.fit(nobody, FOUR_LETTERS).emotion_offsets, made.fit().emotion_offsets)


@pytest.mark.parametrize(
    ("acted", "takes", "letters", "told"),
    [
        ([FOUR_LETTERS] * 2, 4, FOUR_LETTERS, "there are 2 such speakers"),
        ([FOUR_LETTERS] * 2 + [[Emotion.SAD]] * 5, 4, FOUR_LETTERS, "there are 2 such speakers"),
        ([[Emotion.SAD, Emotion.ANGRY]] * 3, 4, [Emotion.SAD, Emotion.NEUTRAL], "there are 0 such speakers"),
        ([FOUR_LETTERS] * 3, 1, FOUR_LETTERS, "no more than one clip of an emotion"),
    ],
)
def test_too_few_voices_or_clips_are_refused(acted: Sequence[Sequence[Emotion]], takes: int, letters: list[Emotion], told: str) -> None:
    with pytest.raises(TrainingError, match=told):
        world(acted, takes).fit(letters)


def tone(hz: float, seconds: float = 1.0, level: float = 0.1) -> Float32:
    return (level * np.sin(2 * np.pi * hz * np.arange(int(SAMPLE_RATE * seconds)) / SAMPLE_RATE)).astype(np.float32)


def power(audio: Float32) -> float:
    return float(np.square(audio).mean())


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 10.0, 20.0])
def test_noise_is_laid_under_a_clip_at_the_ratio_asked_for(snr_db: float) -> None:
    rng = np.random.default_rng(0)
    clip, noise = tone(300), coloured_noise(SAMPLE_RATE, 0.5, rng)
    noisy = add_noise(clip, noise, snr_db)
    assert 10 * np.log10(power(clip) / power(noisy - clip)) == pytest.approx(snr_db, abs=0.1)


def test_silent_noise_leaves_a_clip_as_it_was() -> None:
    assert np.array_equal(add_noise(tone(300), np.zeros(SAMPLE_RATE, np.float32), 10), tone(300))


@pytest.mark.parametrize("t60_s", [0.2, 0.6])
def test_echoes_have_faded_by_sixty_decibels_after_the_time_told(t60_s: float) -> None:
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[0] = 1
    heard = reverberate(click, t60_s, np.random.default_rng(1))
    begin, end = (heard[int(SAMPLE_RATE * (t60_s * share)) :][:400] for share in (0.1, 0.9))
    assert 10 * np.log10(power(begin) / power(end)) == pytest.approx(48, abs=4), "60 dB over t60 is 48 dB over 0.8 t60"
    assert np.abs(heard).max() == pytest.approx(1)


def test_a_telephone_lets_its_band_through_and_nothing_else() -> None:
    low, voice, high = (power(telephone_line(tone(hz))) / power(tone(hz)) for hz in (60, 1000, 6000))
    assert voice == pytest.approx(1, abs=0.05)
    assert low < 1e-4
    assert high < 1e-3


@pytest.mark.parametrize("size", [100, SAMPLE_RATE, 3 * SAMPLE_RATE])
def test_an_excerpt_has_the_length_asked_for_and_starts_again_where_a_recording_ends(size: int) -> None:
    recording = np.arange(SAMPLE_RATE, dtype=np.float32)
    found = random_excerpt(recording, size, np.random.default_rng(0))
    assert len(found) == size
    assert (np.diff(found) == 1).mean() > 0.98


def test_a_room_is_drawn_by_the_generator_alone_and_is_never_the_clip_itself() -> None:
    clip, rooms = np.concatenate([np.zeros(8000, np.float32), tone(200), np.zeros(8000, np.float32)]), RoomAugmentation([[tone(500, 0.5)]])
    drawn = [rooms.anywhere(clip, np.random.default_rng(seed)) for seed in range(40)]
    again = [rooms.anywhere(clip, np.random.default_rng(seed)) for seed in range(40)]
    for one, other in zip(drawn, again, strict=True):
        assert np.array_equal(one, other)
        assert one.dtype == np.float32
        assert np.isfinite(one).all()
        assert len(one) != len(clip) or not np.array_equal(one, clip)
    assert any(len(one) < len(clip) for one in drawn)


def test_rooms_without_noises_and_silent_clips_are_fine() -> None:
    for seed in range(20):
        assert np.isfinite(
            RoomAugmentation([[np.zeros(100, np.float32)], []]).anywhere(np.zeros(5000, np.float32), np.random.default_rng(seed))
        ).all()


def test_a_kind_of_noise_is_heard_as_often_as_any_other_however_many_recordings_it_has() -> None:
    """One high tone of one kind, forty low ones of another, each told from the clip by its frequency."""
    rooms, clip = RoomAugmentation([[tone(3000)], [tone(400)] * 40]), tone(1000)
    hz = np.fft.rfftfreq(len(clip), 1 / SAMPLE_RATE)
    heard = {"high": 0, "low": 0}
    for seed in range(400):
        rng = np.random.default_rng(seed)
        spectrum = np.abs(np.fft.rfft(rooms.anywhere(clip, rng), len(clip)))
        clip_level = spectrum[np.abs(hz - 1000) < 30].max()
        levels = {name: spectrum[np.abs(hz - at) < 30].max() / clip_level for name, at in {"high": 3000, "low": 400}.items()}
        for name, level in levels.items():
            heard[name] += level > 0.05
    assert 0.6 < heard["high"] / heard["low"] < 1.6
