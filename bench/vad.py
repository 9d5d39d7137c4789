"""Voice activity detection in noise: webrtcvad alone, Silero alone, and ours, on the same frames in one run.

`python -m bench.vad MANIFEST` with the corpora that recipes/nano.toml names. Sentences stand at known times in silence, a kitchen, sounds
of ESC-10 and pink noise. Decisions are joined over pauses as the segmenter joins them, without pre-roll and tail, before they are scored.
"""

import csv
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.audio import SAMPLE_RATE, Float32, Int16, float_to_pcm16, ms_to_samples, read_audio, s_to_samples
from monitor.config import SegmenterConfig
from monitor.voice import GatedSilero, VoiceDetector, Webrtcvad
from train.corpora.manifest import Utterance, read_manifest
from train.learning.rooms import coloured_noise, excerpt

Bools = npt.NDArray[np.bool_]

_SETTINGS = SegmenterConfig()
_FRAME = ms_to_samples(_SETTINGS.frame_ms)
_SNRS_DB = (20, 10, 5, 0)
_SENTENCES = 40
_NOISE_S = 3600


class _SileroAlone(GatedSilero):
    """Silero on every frame, at its usual thresholds."""

    def __init__(self) -> None:
        super().__init__(_SETTINGS.aggressiveness, _SETTINGS.frame_ms)
        self._awake = True

    def hears(self, frame: bytes) -> bool:
        self._listen(frame)
        return self._voice

    def _wanted(self) -> float:
        return 0.35 if self._voice else 0.5


DETECTORS: dict[str, Callable[[], VoiceDetector]] = {
    "webrtcvad alone": lambda: Webrtcvad(_SETTINGS.aggressiveness),
    "Silero alone": _SileroAlone,
    "ours": lambda: GatedSilero(_SETTINGS.aggressiveness, _SETTINGS.frame_ms),
}


def run(manifest: Path, noise_s: int = _NOISE_S) -> Iterator[str]:
    """Markdown, table by table, as each is measured."""
    utterances, rng = read_manifest(manifest), np.random.default_rng(0)
    noises = _noises(utterances)
    yield from _in_noise(*_sentences(utterances, rng), noises, rng)
    yield from _reference(manifest.parent / "vad")
    yield from _false_alarms(noises, noise_s, rng)
    yield from _cost(*_sentences(utterances, rng))


def _in_noise(speech: Float32, truth: Bools, noises: dict[str, Float32], rng: np.random.Generator) -> Iterator[str]:
    yield from _head(f"## Frame F1, {_SENTENCES} sentences in {len(speech) / SAMPLE_RATE:.0f} s", "noise")
    yield _row("none", [_f1(truth, _regions(make(), float_to_pcm16(speech))) for make in DETECTORS.values()])
    power = float(np.square(speech[np.repeat(truth, _FRAME)[: len(speech)]]).mean())
    for name, noise in noises.items():
        for snr_db in _SNRS_DB:
            under = excerpt(noise, len(speech), rng)
            scale = np.sqrt(power / float(np.square(under).mean()) * 10 ** (-snr_db / 10))
            pcm = float_to_pcm16(speech + np.float32(scale) * under)
            yield _row(f"{name}, {snr_db} dB", [_f1(truth, _regions(make(), pcm)) for make in DETECTORS.values()])
    yield ""


def _reference(folder: Path) -> Iterator[str]:
    """The 74 s of music, noise and speech with reference segments."""
    sound = float_to_pcm16(read_audio(folder / "musanmix.opus"))
    truth = np.zeros(len(sound) // _FRAME, dtype=np.bool_)
    with (folder / "musanmix.segments.tsv").open(encoding="utf-8") as file:
        for label, start, stop in csv.reader(file, delimiter="\t"):
            if label in ("speech", "male", "female"):
                truth[round(float(start) * SAMPLE_RATE / _FRAME) : round(float(stop) * SAMPLE_RATE / _FRAME)] = True
    yield from _head("## Frame F1 on the reference segments of musanmix", "")
    yield _row("music, noise and speech", [_f1(truth, _regions(make(), sound)) for make in DETECTORS.values()])
    yield ""


def _false_alarms(noises: dict[str, Float32], seconds: int, rng: np.random.Generator) -> Iterator[str]:
    share = seconds // len(noises)
    yield from _head(f"## Share of {seconds} s without speech that is called speech", "noise")
    for name, noise in noises.items():
        pcm = float_to_pcm16(excerpt(noise, s_to_samples(share), rng))
        yield _row(f"{name}, {share} s", [float(_regions(make(), pcm).mean()) for make in DETECTORS.values()])
    yield ""


def _cost(speech: Float32, truth: Bools) -> Iterator[str]:
    """CPU on a quiet day: the sentences once in an hour of a quiet room."""
    room = 1e-4 * coloured_noise(s_to_samples(_NOISE_S / 4), 0.5, np.random.default_rng(1))
    room[: len(speech)] += speech
    pcm = float_to_pcm16(room)
    seconds = {}
    for name, make in DETECTORS.items():
        begin = time.process_time()
        _decisions(make(), pcm)
        seconds[name] = time.process_time() - begin
    hours = len(pcm) / SAMPLE_RATE / 3600
    yield from _head(f"## CPU on a quiet day, {truth.sum() * _FRAME / len(pcm):.0%} of it speech", "")
    yield _row("seconds of one core an hour of sound", [took / hours for took in seconds.values()], ".1f")
    yield _row("against Silero alone", [took / seconds["Silero alone"] for took in seconds.values()], ".2f")


def _sentences(utterances: Sequence[Utterance], rng: np.random.Generator) -> tuple[Float32, Bools]:
    """Acted sentences without the silence around them, 1.5 to 5 s apart, and the frames in which somebody speaks."""
    voices = [u for u in utterances if u.corpus in ("RAVDESS", "nEMO")]
    pieces, spoken = [], []
    for number in rng.permutation(len(voices))[:_SENTENCES]:
        pause = int(rng.uniform(1.5, 5) * SAMPLE_RATE) // _FRAME * _FRAME
        said = _trimmed(read_audio(voices[number].path))
        pieces += [np.zeros(pause, np.float32), said]
        spoken += [np.zeros(pause // _FRAME, np.bool_), np.ones(len(said) // _FRAME, np.bool_)]
    return np.concatenate(pieces), np.concatenate(spoken)


def _trimmed(audio: Float32) -> Float32:
    """From the first to the last 25 ms within 30 dB of the loudest, in whole frames, at a peak of a third of full scale."""
    window = s_to_samples(0.025)
    energy = np.convolve(np.square(audio), np.ones(window) / window, "same")
    loud = np.flatnonzero(energy > energy.max() * 1e-3)
    said = audio[loud[0] : loud[-1] + 1]
    said = said[: len(said) // _FRAME * _FRAME]
    return (said / (3 * np.abs(said).max())).astype(np.float32)


def _noises(utterances: Sequence[Utterance]) -> dict[str, Float32]:
    def of(corpus: str, pattern: str) -> Float32:
        chosen = [u for u in utterances if u.corpus == corpus and u.path.match(pattern)]
        clips = [clip for clip in (read_audio(u.path) for u in chosen) if np.abs(clip).max() > 1e-3]
        return np.concatenate([clip / (10 * clip.std()) for clip in clips]).astype(np.float32)

    vocal = {"Baby_cry", "Person_sneeze"}
    sounds = {u.path.parent.name for u in utterances if u.corpus == "ESC-10"}
    plain = [of("ESC-10", f"{name}/*") for name in sorted(sounds) if not any(word in name for word in vocal)]
    return {
        "kitchen": of("Picovoice-S2I", "noise/kitchen.opus"),
        "ESC-10, not vocal": np.concatenate(plain),
        "pink noise": 0.1 * _unit(coloured_noise(s_to_samples(600), 0.5, np.random.default_rng(2))),
    }


def _unit(noise: Float32) -> Float32:
    return (noise / noise.std()).astype(np.float32)


def _decisions(detector: VoiceDetector, pcm: Int16) -> Bools:
    return np.array([detector.hears(pcm[at : at + _FRAME].tobytes()) for at in range(0, len(pcm) - _FRAME + 1, _FRAME)])


def _regions(detector: VoiceDetector, pcm: Int16) -> Bools:
    """Decisions with pauses shorter than the hangover filled, and islands shorter than the onset dropped first."""
    decided = _decisions(detector, pcm)
    onset, hangover = (ms // _SETTINGS.frame_ms for ms in (_SETTINGS.onset_ms, _SETTINGS.hangover_ms))
    return ~_without_short(~_without_short(decided, onset), hangover)


def _without_short(frames: Bools, least: int) -> Bools:
    """Without runs of True shorter than `least`, but for those at the edges."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], frames, [False]]).astype(int)))
    kept = frames.copy()
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - start < least and start > 0 and stop < len(frames):
            kept[start:stop] = False
    return kept


def _f1(truth: Bools, found: Bools) -> float:
    size = min(len(truth), len(found))
    hits = float((truth[:size] & found[:size]).sum())
    return 2 * hits / float(truth[:size].sum() + found[:size].sum())


def _head(title: str, first: str) -> Iterator[str]:
    yield from (title, "", f"| {first} | {' | '.join(DETECTORS)} |", "|---|" + "---|" * len(DETECTORS))


def _row(name: str, values: Sequence[float], form: str = ".3f") -> str:
    return f"| {name} | {' | '.join(f'{value:{form}}' for value in values)} |"


if __name__ == "__main__":
    for line in run(Path(sys.argv[1]), *(int(seconds) for seconds in sys.argv[2:])):
        print(line, flush=True)
