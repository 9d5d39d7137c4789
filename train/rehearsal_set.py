"""The rehearsal set of a bundle: encoder states of corpus clips, so that a nightly retraining forgets nothing, and shows that it did not.

It lies in the bundle as public.safetensors. Half of the speakers are rehearsed and the other half are only tested, so that rehearsal cannot
flatter the test. It holds no audio: the encoder is frozen, so its states are all that later trainings need, and `predict_states` asks a
bundle about states without encoding a clip twice.
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
from torch.nn.utils.rnn import pad_sequence

from model.audio import read_audio
from model.bundle import Bundle
from model.bundle_format import REHEARSAL_SET_FILE
from model.emotions import Emotion, Prediction
from model.errors import BundleError
from model.language_model import LanguageModel
from model.paralinguistics import VoiceMeasurement, measure_voice
from model.predictor import Predictor, PredictorOutput, SpeechInput
from train.corpora.manifest import Utterance
from train.corpora.splits import CorpusPart

_PREDICTED_AT_ONCE = 24


def predict_states(bundle: Bundle, llm: LanguageModel, states: Sequence[Tensor], sounds: Sequence[SpeechInput]) -> list[Prediction]:
    """Predictions for n utterances' states (T, D), the reference of the voice, if any, subtracted.

    Where a bundle writes the words first, the known ones are taken for written.
    """
    predictor = Predictor(bundle, llm)
    return [one for some in _with_embeds(bundle, states, sounds) for one in predictor.judge(*some)]


def transcribe_and_predict_states(
    bundle: Bundle, llm: LanguageModel, states: Sequence[Tensor], sounds: Sequence[SpeechInput]
) -> list[PredictorOutput]:
    """As `predict_states`, but a bundle that writes the words first writes them; the sounds' audio is not looked at."""
    predictor = Predictor(bundle, llm)
    return [one for some in _with_embeds(bundle, states, sounds) for one in predictor.answer(*some)]


def _with_embeds(
    bundle: Bundle, states: Sequence[Tensor], sounds: Sequence[SpeechInput]
) -> Iterator[tuple[Sequence[SpeechInput], list[Tensor], list[float]]]:
    """Some of the sounds at a time, with their speech embeds (Q, H) and their distances to training speech."""
    for first in range(0, len(states), _PREDICTED_AT_ONCE):
        some = list(states[first : first + _PREDICTED_AT_ONCE])
        mask = pad_sequence([row.new_ones(len(row), dtype=torch.bool) for row in some], batch_first=True)
        padded = pad_sequence(some, batch_first=True)
        yield sounds[first : first + _PREDICTED_AT_ONCE], list(bundle.embed_states(padded, mask)), bundle.distances(padded, mask)


_ENCODED_AT_ONCE = 16
_LEVELS = 127
_NO_AUDIO = np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class RehearsalClip:
    """One clip. states (T, D). posterior (L,): uncalibrated, of the released bundle. emotion: None where none was acted.

    sound: what is known of it beside its audio, which is not kept. rehearsed: nights learn from it; if not, they are measured with it.
    """

    states: Tensor
    posterior: Tensor
    emotion: Emotion | None
    speaker: str
    sound: SpeechInput
    rehearsed: bool


@dataclass(frozen=True, slots=True, eq=False)
class RehearsalSet:
    """temperature, unsure_below: of the released bundle, whichever nights have followed."""

    clips: list[RehearsalClip]
    temperature: float
    unsure_below: float

    @property
    def rehearsed(self) -> list[RehearsalClip]:
        """What nights learn from."""
        return [clip for clip in self.clips if clip.rehearsed]

    @property
    def measured_with(self) -> list[RehearsalClip]:
        """Acted emotions of the voices that are never rehearsed."""
        return [clip for clip in self.clips if not clip.rehearsed]


def read_rehearsal_set(folder: Path) -> RehearsalSet:
    """The public set of the bundle in `folder`. Raises BundleError where it has none, or a damaged one."""
    path = folder / REHEARSAL_SET_FILE
    if not path.is_file():
        raise BundleError(
            f"the bundle {folder} has no {REHEARSAL_SET_FILE}, without which a night would forget what it does not rehearse;"
            " `emosllm-monitor train` writes one into every new bundle"
        )
    try:
        with safe_open(path, "pt") as file:
            told = json.loads(file.metadata()["told"])
            states, bounds, scale, posterior = (file.get_tensor(name) for name in ("states", "bounds", "scale", "posterior"))
        rows = [states[start:end].float() * scale for start, end in pairwise(bounds)]
        clips = [_clip(row, of_it, clip) for row, of_it, clip in zip(rows, posterior, told["clips"], strict=True)]
        return RehearsalSet(clips, told["temperature"], told["unsure_below"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BundleError(f"{path} is damaged ({error}); get the bundle again") from error


def write_rehearsal_set(bundle: Bundle, llm: LanguageModel, parts: Sequence[CorpusPart], count: int, folder: Path) -> None:
    """Choose about `count` clips of `parts`, encode them, ask the bundle, and write to `folder` what `read_rehearsal_set` reads.

    A byte for each value of a state, on a scale for each of its D places: 1/127 of the largest, a hundredth of what two takes differ by.
    """
    chosen = list(_chosen(parts, bundle.manifest.letters, count))
    sounds = [_sound(bundle, utterance) for utterance, _ in chosen]
    states = _states(bundle, [utterance for utterance, _ in chosen])
    scale = torch.cat(states).abs().amax(dim=0).clamp(min=1e-6) / _LEVELS
    stored = [(row / scale).round().to(torch.int8) for row in states]
    predictions = predict_states(bundle.uncalibrated(), llm, [row.float() * scale for row in stored], sounds)
    tensors = {
        "states": torch.cat(stored),
        "bounds": torch.tensor(np.cumsum([0, *map(len, stored)])),
        "scale": scale,
        "posterior": torch.tensor([list(one.posterior.values()) for one in predictions], dtype=torch.float32),
    }
    clips = [_row(utterance, sound, rehearsed) for (utterance, rehearsed), sound in zip(chosen, sounds, strict=True)]
    told = {"temperature": bundle.manifest.temperature, "unsure_below": bundle.manifest.unsure_below, "clips": clips}
    save_file(tensors, folder / REHEARSAL_SET_FILE, {"told": json.dumps(told)})


def _clip(states: Tensor, posterior: Tensor, clip: dict[str, Any]) -> RehearsalClip:
    measured = VoiceMeasurement(**clip["measured"]) if clip["measured"] else None
    sound = SpeechInput(_NO_AUDIO, clip["transcript"], clip["gender"], measured)
    return RehearsalClip(
        states, posterior, Emotion(clip["emotion"]) if clip["emotion"] else None, clip["speaker"], sound, clip["rehearsed"]
    )


def _row(utterance: Utterance, sound: SpeechInput, rehearsed: bool) -> dict[str, Any]:
    return {
        "emotion": utterance.emotion,
        "speaker": utterance.speaker or utterance.path.name,
        "transcript": sound.transcript,
        "gender": sound.gender,
        "measured": sound.measured and asdict(sound.measured),
        "rehearsed": rehearsed,
    }


def _sound(bundle: Bundle, utterance: Utterance) -> SpeechInput:
    measured = measure_voice(read_audio(utterance.path)) if bundle.manifest.features else None
    return SpeechInput(_NO_AUDIO, utterance.transcript, utterance.gender, measured)


def _states(bundle: Bundle, utterances: Sequence[Utterance]) -> list[Tensor]:
    """Of each utterance (T, D)."""
    found: list[Tensor] = []
    for first in range(0, len(utterances), _ENCODED_AT_ONCE):
        states, mask = bundle.encoder([torch.from_numpy(read_audio(u.path)) for u in utterances[first : first + _ENCODED_AT_ONCE]])
        found += [row[real].cpu() for row, real in zip(states, mask, strict=True)]
    return found


def _chosen(parts: Sequence[CorpusPart], letters: Sequence[Emotion], count: int) -> Iterator[tuple[Utterance, bool]]:
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
