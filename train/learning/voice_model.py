"""What training knows of voices: how emotions move the states of any speaker, and where each speaker's states lie.

A clip's state is taken as common centre + what its emotion adds + what its speaker adds + the rest (a mixed model without interactions).
n clips, D encoder width, L letters, S speakers.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.errors import TrainingError
from model.types import Emotion

Speaker = tuple[str, str]
"""Corpus and name: names alone may meet in two corpora."""


@dataclass(frozen=True, slots=True)
class Clips:
    """States of clips as recorded, float32 (n, D). emotions: None where none was acted. speakers: None where nobody knows.

    neutral: whether what has no emotion here was neutral reading, so that it tells where its speaker's states lie.
    """

    states: Tensor
    emotions: Sequence[Emotion | None]
    speakers: Sequence[Speaker | None]
    neutral: Sequence[bool]


@dataclass(frozen=True, slots=True)
class VoiceModel:
    """emotion_offsets (L, D): what each letter adds to a speaker's centre, their mean 0 over letters of a speaker with all of them.

    ratio (D,): variance within an emotion of one speaker over variance between speakers, per channel: how many clips it takes until a
    speaker's own mean says as much as what is known of all. speakers: what each one adds (D,).
    """

    emotion_offsets: Tensor
    ratio: Tensor
    speakers: Mapping[Speaker, Tensor]

    @classmethod
    def fit(cls, clips: Clips, letters: Sequence[Emotion]) -> "VoiceModel":
        """By moments, every speaker with at least two emotions counting the same. Raises TrainingError where there are fewer than three."""
        cells = _cells(clips, letters)
        acting = {speaker: of_it for speaker, of_it in cells.items() if len(of_it) > 1}
        if len(acting) < 3:
            raise TrainingError(f"a reference of voices needs three speakers with two emotions each, and there are {len(acting)}")
        width = clips.states.shape[1]
        added, count = torch.zeros(len(letters), width), torch.zeros(len(letters), 1)
        centres, within, free = [], torch.zeros(width), 0
        for of_it in acting.values():
            means = {letter: clips.states[places].mean(dim=0) for letter, places in of_it.items()}
            centre = torch.stack(list(means.values())).mean(dim=0)
            centres.append(centre)
            for letter, places in of_it.items():
                added[letter] += means[letter] - centre
                count[letter] += 1
                within += (clips.states[places] - means[letter]).square().sum(dim=0)
                free += len(places) - 1
        emotion_offsets = added / count.clamp(min=1)
        ratio = (within / max(1, free)) / torch.stack(centres).var(dim=0).clamp(min=1e-6)
        return cls(emotion_offsets, ratio, _speaker_offsets(clips, letters, emotion_offsets, ratio))


def _cells(clips: Clips, letters: Sequence[Emotion]) -> dict[Speaker, dict[int, list[int]]]:
    """Places of the clips of each speaker in each letter."""
    cells: dict[Speaker, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, (emotion, speaker) in enumerate(zip(clips.emotions, clips.speakers, strict=True)):
        if emotion is not None and emotion in letters and speaker is not None:
            cells[speaker][list(letters).index(emotion)].append(place)
    return cells


def _speaker_offsets(clips: Clips, letters: Sequence[Emotion], emotion_offsets: Tensor, ratio: Tensor) -> dict[Speaker, Tensor]:
    """The mean of what their emotions do not explain, shrunk as the monitor shrinks it: training hears voices as well known as that."""
    rest: dict[Speaker, list[Tensor]] = defaultdict(list)
    for state, emotion, speaker, neutral in zip(clips.states, clips.emotions, clips.speakers, clips.neutral, strict=True):
        heard_as = emotion if emotion in letters else Emotion.NEUTRAL if neutral and Emotion.NEUTRAL in letters else None
        if speaker is not None and heard_as is not None:
            rest[speaker].append(state - emotion_offsets[list(letters).index(heard_as)])
    return {speaker: torch.stack(rows).mean(dim=0) * (len(rows) / (len(rows) + ratio)) for speaker, rows in rest.items()}
