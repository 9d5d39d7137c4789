"""The audio of the VAD study (vad.py): sentences at known times, noises, and a quiet day, in two halves that share no speaker.

It knows corpora and where somebody speaks in them, and no detector. The thresholds of the monitor's VAD were chosen on the half TUNE;
figures come from the half REPORT, whose speakers and sounds are others. Actors 17 to 20 of RAVDESS are in neither.

Speech is labelled on the clean clip alone: frames whose loudest 25 ms are within 30 dB of the clip's loudest; runs under 120 ms
(clicks, breaths, lip smacks) are dropped; pauses shorter than the segmenter's hangover count as speech, as they do for the segmenter.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.audio import SAMPLE_RATE, Float32, ms_to_samples, read_audio, s_to_samples
from monitor.config import SegmenterConfig
from train.corpora.manifest import Utterance, read_corpus_manifest
from train.learning.augmentation import coloured_noise, random_excerpt

Bools = npt.NDArray[np.bool_]

SETTINGS = SegmenterConfig()
FRAME = ms_to_samples(SETTINGS.frame_ms)
SPEECH_DBFS = -26.0
_WITHIN_DB, _CLICK_MS = 30.0, 120
_TUNE_NEMO = {"nemo_IC0", "nemo_KS0", "nemo_KD0", "nemo_TP0"}
_HOUSEHOLD = ("Clock", "Dog", "sneeze", "Rain")
_PLAIN = ("Dog", "Rain", "Sea", "Clock", "Helicopter", "Chainsaw", "Rooster", "Fire")
_VOCAL = ("Baby", "sneeze")


class Half(Enum):
    TUNE = "tune"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Scene:
    """Sound at SAMPLE_RATE, and for each of its frames whether somebody speaks."""

    audio: Float32
    truth: Bools


class Corpora:
    """One half of the recordings."""

    def __init__(self, manifest: Path, half: Half) -> None:
        self.half = half
        everything = read_corpus_manifest(manifest)
        self._utterances = [u for u in everything if _half(u) is half]
        self._kitchen = next(u.path for u in everything if u.path.parent.name == "noise")
        self._rng = np.random.default_rng(half is Half.REPORT)

    def actors(self) -> list[Utterance]:
        """Every clip of RAVDESS."""
        return [u for u in self._utterances if u.corpus == "RAVDESS"]

    def sentences(self, scale: float = 1.0) -> Scene:
        """Acted English, acted Polish and spoken commands, 2 to 1 to 1, all equally loud, 1.5 to 5 s of digital silence before each."""
        chosen: list[Utterance] = []
        for corpus, count in (("RAVDESS", 48), ("nEMO", 24), ("Picovoice-S2I", 24)):
            known = [u for u in self._utterances if u.corpus == corpus]
            chosen += [known[n] for n in self._rng.permutation(len(known))[: round(count * scale)]]
        pieces, truths = [], []
        for number in self._rng.permutation(len(chosen)):
            said = _sentence(read_audio(chosen[number].path))
            pause = int(self._rng.uniform(1.5, 5) * SAMPLE_RATE) // FRAME
            pieces += [np.zeros(pause * FRAME, np.float32), said.audio]
            truths += [np.zeros(pause, np.bool_), said.truth]
        return Scene(np.concatenate(pieces), np.concatenate(truths))

    def noises(self) -> dict[str, Float32]:
        """Sounds without speech, at 0.1 of full scale."""
        kitchen = read_audio(self._kitchen)
        middle = len(kitchen) // 2
        pink = coloured_noise(s_to_samples(3600), 0.5, self._rng)
        return {
            "kitchen": at_level(kitchen[:middle] if self.half is Half.TUNE else kitchen[middle:], -20),
            "ESC-10, not vocal": np.concatenate(self._sounds(_PLAIN)),
            "pink noise": at_level(pink, -20),
            "babies and sneezes": np.concatenate(self._sounds(_VOCAL)),
        }

    def mixed(self, scene: Scene, noise: Float32, snr_db: float) -> Float32:
        """A scene with noise `snr_db` below its speech: power against power, pauses left out."""
        under = random_excerpt(noise, len(scene.audio), self._rng)
        return scene.audio + at_level(under, SPEECH_DBFS - snr_db)

    def restless(self, noise: Float32, seconds: int) -> Float32:
        """Noise for a long time: as often as it takes, each pass from another place, each ten seconds at another level, -50 to -20 dBFS."""
        parts = []
        for _ in range(-(-seconds // 10)):
            part = random_excerpt(noise, s_to_samples(10), self._rng)
            parts.append(at_level(part, float(self._rng.uniform(-50, -20))))
        return np.concatenate(parts)

    def quiet_day(self, seconds: int) -> Scene:
        """A quiet room, in it every 90 s on average a household sound of 5 s (-50 to -30 dBFS), 2 to 3 % of it speech."""
        speech, audio = self.sentences(seconds / 3600 * 0.45), self.quiet_room(seconds)
        sounds = self._sounds(_HOUSEHOLD)
        for start in self._rng.integers(0, len(audio) - 5 * SAMPLE_RATE, seconds // 90):
            sound = sounds[int(self._rng.integers(len(sounds)))][: 5 * SAMPLE_RATE]
            audio[start : start + len(sound)] += at_level(sound, float(self._rng.uniform(-50, -30)))
        truth = np.zeros(len(audio) // FRAME, np.bool_)
        # A conversation in the middle of the hour, not a sentence here and there.
        first = len(truth) // 2
        audio[first * FRAME : first * FRAME + len(speech.audio)] += speech.audio
        truth[first : first + len(speech.truth)] = speech.truth
        return Scene(audio, truth)

    def quiet_room(self, seconds: int) -> Float32:
        """Pink noise at -62 dBFS that drifts by 3 dB up and down within minutes."""
        size = s_to_samples(seconds)
        minutes = seconds // 60 + 2
        drift_db = np.interp(np.arange(size), np.linspace(0, size, minutes), self._rng.uniform(-3, 3, minutes))
        return np.asarray(at_level(coloured_noise(size, 0.5, self._rng), -62) * 10 ** (drift_db / 20), dtype=np.float32)

    def _sounds(self, names: Sequence[str]) -> list[Float32]:
        paths = [u.path for u in self._utterances if u.corpus == "ESC-10" and any(name in u.path.parent.name for name in names)]
        clips = [clip for clip in map(read_audio, paths) if np.abs(clip).max() > 1e-3]
        return [at_level(clips[n], -20) for n in self._rng.permutation(len(clips))]


def clip_in_a_room(utterance: Utterance) -> Scene:
    """A clip as loud as it was recorded, behind a second of a quiet room (-80 dBFS)."""
    clip = read_audio(utterance.path)
    audio = np.concatenate([np.zeros(SAMPLE_RATE // FRAME * FRAME, np.float32), clip])
    truth = np.concatenate([np.zeros(SAMPLE_RATE // FRAME, np.bool_), spoken(clip)])
    return Scene((audio + np.random.default_rng(0).normal(0, 1e-4, len(audio))).astype(np.float32), truth)


def spoken(clip: Float32) -> Bools:
    """The frames of a clean clip in which somebody speaks; see above."""
    loud = _loud(clip)
    return ~without_short(~without_short(loud, _CLICK_MS), SETTINGS.hangover_ms)


def without_short(frames: Bools, least_ms: int) -> Bools:
    """Without runs of True shorter than `least_ms`, but for those at the edges."""
    kept = frames.copy()
    for start, stop in runs(frames):
        if (stop - start) * SETTINGS.frame_ms < least_ms and start > 0 and stop < len(frames):
            kept[start:stop] = False
    return kept


def runs(frames: Bools) -> Iterator[tuple[int, int]]:
    """Where runs of True start and stop."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], frames, [False]]).astype(int)))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def at_level(audio: Float32, dbfs: float) -> Float32:
    """The same sound with its root mean square at `dbfs`."""
    power = max(float(np.square(audio, dtype=np.float64).mean()), 1e-12)
    return np.asarray(audio * (10 ** (dbfs / 20) / np.sqrt(power)), dtype=np.float32)


def _half(utterance: Utterance) -> Half | None:
    """By the speaker, or where there is none by the file's name; None: in neither half."""
    name = utterance.path.name
    match utterance.corpus:
        case "RAVDESS":
            actor = int(utterance.speaker[-2:])
            return None if actor > 16 else Half.TUNE if actor <= 8 else Half.REPORT
        case "nEMO":
            tune = utterance.speaker in _TUNE_NEMO
        case "ESC-10":
            tune = name[0] in "123"
        case "Picovoice-S2I" if utterance.path.parent.name != "noise":
            tune = int(name[0], 16) < 8
        case _:
            return None
    return Half.TUNE if tune else Half.REPORT


def _loud(clip: Float32) -> Bools:
    window = s_to_samples(0.025)
    energy = np.convolve(np.square(clip, dtype=np.float64), np.ones(window) / window, "same")
    frames = energy[: len(clip) // FRAME * FRAME].reshape(-1, FRAME).max(axis=1)
    return np.asarray(frames > energy.max() * 10 ** (-_WITHIN_DB / 10))


def _sentence(clip: Float32) -> Scene:
    """A clip from 0.3 s before its speech to 0.3 s behind it, faded in and out, its speech at SPEECH_DBFS."""
    truth = spoken(clip)
    inside = np.flatnonzero(truth)
    start, stop = max(0, inside[0] - 10), min(len(truth), inside[-1] + 11)
    truth = truth[start:stop]
    audio = clip[start * FRAME : stop * FRAME]
    voiced = np.repeat(truth & _loud(clip)[start:stop], FRAME)
    fade = np.minimum(1, np.minimum(np.arange(len(audio)), np.arange(len(audio))[::-1]) / FRAME)
    level = float(np.sqrt(np.square(audio[voiced]).mean()))
    return Scene((audio * fade * (10 ** (SPEECH_DBFS / 20) / level)).astype(np.float32), truth)
