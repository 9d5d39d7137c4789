"""The public set of a bundle: encoder states of corpus clips, so that a night's training forgets nothing, and shows that it did not.

It lies in the bundle as `public.safetensors`: of half the voices to rehearse with, of the other half to measure with, so that what was
rehearsed cannot flatter what is measured. Sound is not in it. The encoder is frozen, so its states are all that later trainings need.
n clips, T encoder states of a clip, D encoder width, L letters.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.audio import read_audio
from model.bundle import Bundle
from model.errors import BundleError
from model.manifest import PUBLIC_SET
from model.paralinguistics import Measured, measure
from model.predictor import Sound
from model.request import LanguageModel
from model.types import Emotion
from train.asking import from_states
from train.corpora.manifest import Utterance
from train.corpora.splits import Part

_AT_ONCE = 16
_LEVELS = 127
_NO_AUDIO = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class PublicClip:
    """One clip. states (T, D). posterior (L,): uncalibrated, of the released bundle. emotion: None where none was acted.

    sound: what is known of it beside its audio, which is not kept. rehearsed: nights learn from it; if not, they are measured with it.
    """

    states: Tensor
    posterior: Tensor
    emotion: Emotion | None
    speaker: str
    sound: Sound
    rehearsed: bool


@dataclass(frozen=True, slots=True, eq=False)
class PublicSet:
    """temperature, unsure_below: of the released bundle, whichever nights have followed."""

    clips: list[PublicClip]
    temperature: float
    unsure_below: float

    @property
    def rehearsed(self) -> list[PublicClip]:
        """What nights learn from."""
        return [clip for clip in self.clips if clip.rehearsed]

    @property
    def measured_with(self) -> list[PublicClip]:
        """Acted emotions of the voices that are never rehearsed."""
        return [clip for clip in self.clips if not clip.rehearsed]


def read_public_set(folder: Path) -> PublicSet:
    """The public set of the bundle in `folder`. Raises BundleError where it has none, or a damaged one."""
    path = folder / PUBLIC_SET
    if not path.is_file():
        raise BundleError(
            f"the bundle {folder} has no {PUBLIC_SET}, without which a night would forget what it does not rehearse;"
            " `emosllm-monitor train` writes one into every new bundle"
        )
    try:
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["told"])
            states, bounds, scale, posterior = (file.get_tensor(name) for name in ("states", "bounds", "scale", "posterior"))
        rows = [states[start:end].float() * scale for start, end in pairwise(bounds)]
        clips = [_clip(row, of_it, clip) for row, of_it, clip in zip(rows, posterior, told["clips"], strict=True)]
        return PublicSet(clips, told["temperature"], told["unsure_below"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BundleError(f"{path} is damaged ({error}); get the bundle again") from error


def write_public_set(bundle: Bundle, llm: LanguageModel, parts: Sequence[Part], count: int, folder: Path) -> None:
    """Choose about `count` clips of `parts`, encode them, ask the bundle, and write to `folder` what `read_public_set` reads.

    A byte for each value of a state, on a scale for each of its D places: 1/127 of the largest, a hundredth of what two takes differ by.
    """
    chosen = list(_chosen(parts, bundle.manifest.letters, count))
    sounds = [_sound(bundle, utterance) for utterance, _ in chosen]
    states = _states(bundle, [utterance for utterance, _ in chosen])
    scale = torch.cat(states).abs().amax(dim=0).clamp(min=1e-6) / _LEVELS
    stored = [(row / scale).round().to(torch.int8) for row in states]
    predictions = from_states(bundle.uncalibrated(), llm, [row.float() * scale for row in stored], sounds)
    tensors = {
        "states": torch.cat(stored),
        "bounds": torch.tensor(np.cumsum([0, *map(len, stored)])),
        "scale": scale,
        "posterior": torch.tensor([list(one.posterior.values()) for one in predictions], dtype=torch.float32),
    }
    clips = [_row(utterance, sound, rehearsed) for (utterance, rehearsed), sound in zip(chosen, sounds, strict=True)]
    told = {"temperature": bundle.manifest.temperature, "unsure_below": bundle.manifest.unsure_below, "clips": clips}
    save_file(tensors, folder / PUBLIC_SET, {"told": json.dumps(told)})


def _clip(states: Tensor, posterior: Tensor, clip: dict[str, Any]) -> PublicClip:
    measured = Measured(**clip["measured"]) if clip["measured"] else None
    sound = Sound(_NO_AUDIO, clip["transcript"], clip["gender"], measured)
    return PublicClip(states, posterior, Emotion(clip["emotion"]) if clip["emotion"] else None, clip["speaker"], sound, clip["rehearsed"])


def _row(utterance: Utterance, sound: Sound, rehearsed: bool) -> dict[str, Any]:
    return {
        "emotion": utterance.emotion,
        "speaker": utterance.speaker or utterance.path.name,
        "transcript": sound.transcript,
        "gender": sound.gender,
        "measured": sound.measured and asdict(sound.measured),
        "rehearsed": rehearsed,
    }


def _sound(bundle: Bundle, utterance: Utterance) -> Sound:
    measured = measure(read_audio(utterance.path)) if bundle.manifest.features else None
    return Sound(_NO_AUDIO, utterance.transcript, utterance.gender, measured)


def _states(bundle: Bundle, utterances: Sequence[Utterance]) -> list[Tensor]:
    """Of each utterance (T, D)."""
    found: list[Tensor] = []
    for first in range(0, len(utterances), _AT_ONCE):
        states, mask = bundle.encoder([torch.from_numpy(read_audio(u.path)) for u in utterances[first : first + _AT_ONCE]])
        found += [row[real].cpu() for row, real in zip(states, mask, strict=True)]
    return found


def _chosen(parts: Sequence[Part], letters: Sequence[Emotion], count: int) -> Iterator[tuple[Utterance, bool]]:
    """Clips with whether they are rehearsed: of each corpus by its share, emotions and voices evenly; without emotions all rehearsed."""
    shares = sum(part.share for part in parts)
    for part in parts:
        wanted = max(1, round(count * part.share / shares))
        if part.answer is not None:
            yield from ((utterance, True) for utterance in _evenly([part.utterances], wanted))
            continue
        speakers = sorted({u.speaker for u in part.utterances})
        for rehearsed in (True, False):
            # By pairs of neighbours: where women and men take turns, both halves have as many of each.
            voices = [speaker for i, speaker in enumerate(speakers) if (i // 2 % 2 == 0) == rehearsed]
            cells: defaultdict[tuple[str, Emotion], list[Utterance]] = defaultdict(list)
            for utterance in part.utterances:
                if utterance.speaker in voices and utterance.emotion in letters and utterance.emotion is not None:
                    cells[utterance.speaker, utterance.emotion].append(utterance)
            yield from ((utterance, rehearsed) for utterance in _evenly(list(cells.values()), wanted // 2))


def _evenly(cells: Sequence[Sequence[Utterance]], wanted: int) -> list[Utterance]:
    """`wanted` clips, or all, one from each cell in turn; which of a cell is drawn with a fixed seed."""
    rng = np.random.default_rng(0)
    orders = [[cell[i] for i in rng.permutation(len(cell))] for cell in cells]
    turns = [order[turn] for turn in range(max(map(len, orders), default=0)) for order in orders if turn < len(order)]
    return turns[:wanted]
