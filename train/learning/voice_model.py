"""What training knows of speakers: how emotions move encoder states, where each speaker's states lie, and a linear teacher.

A clip's state is modelled as common centre + offset of its emotion + offset of its speaker + residual (a mixed model without interactions).
The teacher is a multinomial logistic regression on encoder states, which transfers to unseen corpora better than richer classifiers do.
n clips, D encoder width, L letters, S speakers, C cells: emotions of one speaker.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from model.emotions import Emotion
from model.errors import TrainingError

Speaker = tuple[str, str]
"""Corpus and name: names alone may meet in two corpora."""


@dataclass(frozen=True, slots=True)
class ClipStates:
    """States of clips as recorded, float32 (n, D). emotions: None where none was acted. speakers: None where nobody knows.

    neutral: whether what has no emotion here was neutral reading, so that it tells where its speaker's states lie.
    """

    states: Tensor
    emotions: Sequence[Emotion | None]
    speakers: Sequence[Speaker | None]
    neutral: Sequence[bool]


@dataclass(frozen=True, slots=True)
class VoiceModel:
    """emotion_offsets (L, D): what each letter adds to any speaker's centre; their mean is 0, and a letter that nobody acted adds 0.

    ratio (D,): variance within an emotion of one speaker over variance between speakers, per channel: how many clips it takes until a
    speaker's own mean says as much as what is known of all. speakers: what each one adds (D,), as far as their clips tell.
    """

    emotion_offsets: Tensor
    ratio: Tensor
    speakers: Mapping[Speaker, Tensor]

    @classmethod
    def fit(cls, clips: ClipStates, letters: Sequence[Emotion]) -> "VoiceModel":
        """By least squares over the means of every speaker's emotions, so that who never acted one of them shifts none of the others.

        Only speakers with at least two emotions tell what emotions add and how far voices differ. Raises TrainingError where there are
        fewer than three of them, or where none has two clips of one emotion.
        """
        acting = {speaker: of_it for speaker, of_it in _cells(clips, letters).items() if len(of_it) > 1}
        cells = [(number, letter, clips.states[places]) for number, of_it in enumerate(acting.values()) for letter, places in of_it.items()]
        free = sum(len(states) - 1 for _, _, states in cells)
        if len(acting) < 3 or not free:
            raise TrainingError(
                "a reference of voices needs three speakers with two emotions each, and more than one clip of an emotion;"
                f" there are {len(acting)} such speakers, and {'more' if free else 'no more'} than one clip of an emotion"
            )
        means = torch.stack([states.mean(dim=0) for _, _, states in cells])
        within = torch.stack([(states - states.mean(dim=0)).square().sum(dim=0) for _, _, states in cells]).sum(dim=0) / free
        of_speaker = one_hot(torch.tensor([number for number, _, _ in cells]), len(acting)).float()
        of_letter = one_hot(torch.tensor([letter for _, letter, _ in cells]), len(letters)).float()
        emotion_offsets = _letter_offsets(of_speaker, of_letter, means)
        share = of_speaker.T / of_speaker.sum(dim=0)[:, None]
        centres = share @ (means - of_letter @ emotion_offsets)
        # Centres differ for two reasons: voices do, and each is a mean of few clips.
        by_chance = within * (share.square() @ torch.tensor([1 / len(states) for _, _, states in cells])).mean()
        ratio: Tensor = within / (centres.var(dim=0) - by_chance).clamp(min=1e-6)
        return cls(emotion_offsets, ratio, _speaker_offsets(clips, letters, emotion_offsets, ratio))


def _letter_offsets(of_speaker: Tensor, of_letter: Tensor, means: Tensor) -> Tensor:
    """Offsets (L, D) of an additive model of cell means (C, D); which speaker and letter a cell is of: one-hot (C, S), (C, L)."""
    design = torch.cat([of_speaker, of_letter], dim=1).double()
    # Offsets of speakers and of letters are known up to a constant; of all solutions this takes the smallest.
    found: Tensor = torch.linalg.lstsq(design, means.double(), driver="gelsd").solution[of_speaker.shape[1] :].float()
    acted = of_letter.any(dim=0)
    offsets: Tensor = (found - found[acted].mean(dim=0)) * acted[:, None]
    return offsets


def _cells(clips: ClipStates, letters: Sequence[Emotion]) -> dict[Speaker, dict[int, list[int]]]:
    """Places of the clips of each speaker in each letter."""
    cells: dict[Speaker, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, (emotion, speaker) in enumerate(zip(clips.emotions, clips.speakers, strict=True)):
        if emotion is not None and emotion in letters and speaker is not None:
            cells[speaker][list(letters).index(emotion)].append(place)
    return cells


def _speaker_offsets(clips: ClipStates, letters: Sequence[Emotion], emotion_offsets: Tensor, ratio: Tensor) -> dict[Speaker, Tensor]:
    """The mean of what their emotions do not explain, shrunk as the monitor shrinks it: training hears voices as well known as that."""
    rest: dict[Speaker, list[Tensor]] = defaultdict(list)
    for state, emotion, speaker, neutral in zip(clips.states, clips.emotions, clips.speakers, clips.neutral, strict=True):
        heard_as = emotion if emotion in letters else Emotion.NEUTRAL if neutral and Emotion.NEUTRAL in letters else None
        if speaker is not None and heard_as is not None:
            rest[speaker].append(state - emotion_offsets[list(letters).index(heard_as)])
    return {speaker: torch.stack(rows).mean(dim=0) * (len(rows) / (len(rows) + ratio)) for speaker, rows in rest.items()}


_ITERATIONS = 150
_HISTORY = 10


@dataclass(frozen=True, slots=True)
class LinearTeacher:
    """weight (L, D), bias (L,)."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, states: Tensor, targets: Tensor, importance: Tensor, l2: float) -> "LinearTeacher":
        """Minimise the cross-entropy, and l2 times the sum of squared weights; biases are not penalised.

        states (n, D). targets (n, L): the probabilities that should be answered. importance (n,): how much each clip counts, over 0; only
        ratios matter. l2: scikit-learn's C is 1 / (2 l2) where the importance adds up to 1.
        """
        weight = torch.zeros(targets.shape[1], states.shape[1], requires_grad=True)
        bias = torch.zeros(targets.shape[1], requires_grad=True)
        share = importance / importance.sum()
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, history_size=_HISTORY, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            log_probs = (states @ weight.T + bias).log_softmax(dim=1)
            value = -(share * (targets * log_probs).sum(dim=1)).sum() + l2 * weight.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        return cls(weight.detach(), bias.detach())

    def posterior(self, states: Tensor) -> Tensor:
        """States (B, D) to probabilities (B, L)."""
        return (states @ self.weight.T + self.bias).softmax(dim=1)
