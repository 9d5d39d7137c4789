"""What a room, a line or another sound costs: the same clips, heard as they would be there. The bundle and its threshold stay the same.

Every clip's condition is drawn by its file's name, so a second evaluation hears the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from model.audio import Float32, read_audio, s_to_samples
from model.bundle import Bundle
from model.errors import TrainingError
from model.predictor import Sound, Style
from model.request import LanguageModel
from train.corpora.manifest import Utterance
from train.corpora.splits import Noise
from train.learning.rooms import excerpt, reverberated, telephone, with_noise
from train.scoring.evaluation import ConditionFigures
from train.scoring.judging import judge, sound_of
from train.scoring.results import Judged, condition_figures

SNR_DB = 10.0
T60_S = 0.35
QUIETER_DB = 20.0
SHORT_S = 1.0

Change = Callable[[Float32, np.random.Generator], Float32]


def conditions(noises: Sequence[Noise]) -> dict[str, Change]:
    """The conditions by name: each of the noises, a small room, a telephone line, a quiet voice, the shortest segment there is."""
    found: dict[str, Change] = {f"{noise.name}, {SNR_DB:.0f} dB SNR": _noisy(noise) for noise in noises}
    found[f"small room, {T60_S} s reverberation"] = lambda audio, rng: reverberated(audio, T60_S, rng)
    found["telephone"] = lambda audio, rng: telephone(audio)
    found[f"{QUIETER_DB:.0f} dB quieter"] = lambda audio, rng: audio * np.float32(10 ** (-QUIETER_DB / 20))
    found[f"the loudest {SHORT_S:.0f} s alone"] = lambda audio, rng: _loudest(audio, s_to_samples(SHORT_S))
    return found


def judge_in_conditions(
    bundle: Bundle, llm: LanguageModel, utterances: Sequence[Utterance], style: Style, clean: Sequence[Judged], noises: Sequence[Noise]
) -> list[ConditionFigures]:
    """The clips that `clean` judged as they are, judged in every condition."""
    letters = bundle.manifest.letters
    found = []
    for name, change in conditions(noises).items():
        judged = judge(bundle, llm, utterances, style, name, sound=lambda u, change=change: _changed(u, change))  # type: ignore[misc]
        found.append(condition_figures(name, clean, judged, letters))
    return found


def _noisy(noise: Noise) -> Change:
    recordings = [_half(read_audio(path), noise.second_half) for path in noise.paths]
    audible = [recording for recording in recordings if len(recording) and float(np.square(recording).mean()) > 0]
    if not audible:
        raise TrainingError(f"the recordings of the noise {noise.name} hold nothing but silence; name others under its test")

    def change(audio: Float32, rng: np.random.Generator) -> Float32:
        return with_noise(audio, excerpt(audible[int(rng.integers(len(audible)))], len(audio), rng), SNR_DB)

    return change


def _loudest(audio: Float32, size: int) -> Float32:
    """The stretch (size,) with the most energy, or all of a shorter clip."""
    energy = np.concatenate([[0.0], np.cumsum(np.square(audio, dtype=np.float64))])
    start = int(np.argmax(energy[size:] - energy[:-size])) if len(audio) > size else 0
    return audio[start : start + size]


def _half(recording: Float32, second: bool | None) -> Float32:
    middle = len(recording) // 2
    return recording if second is None else recording[middle:] if second else recording[:middle]


def _changed(utterance: Utterance, change: Change) -> Sound:
    sound = sound_of(utterance)
    return replace(sound, audio=change(sound.audio, np.random.default_rng(list(Path(utterance.path).name.encode()))))
