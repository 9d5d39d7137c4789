"""Voice activity detection in noise: webrtcvad alone, Silero alone, and ours, on the same frames in one run.

`python -m bench.studies.vad MANIFEST [--quick] [--tune] [--tables TABLE ...]` with the corpora that recipes/nano.toml names. --quick takes
a sixth of the sound; --tune hears the half on which the thresholds were chosen. What is heard: vad_scenes.py.

Decisions are joined over pauses as the segmenter joins them, and islands shorter than its onset dropped, without pre-roll and tail.
All three decide late, since they must hear before they know: each score stands as decided, and with 60 ms taken off all of them.
There is no tolerance at the edges of speech.
"""

import argparse
import csv
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from bench.studies.vad_scenes import FRAME, SETTINGS, Bools, Corpora, Half, Scene, clip_in_a_room, without_short
from model.audio import SAMPLE_RATE, Float32, Int16, float_to_pcm16, ms_to_samples, read_audio, s_to_samples
from monitor.audio.segmenter import Segmenter
from monitor.audio.stream import AudioChunk
from monitor.audio.vad import GatedSileroVad, SileroVad, VoiceActivityDetector, WebrtcVad

_SNRS_DB = (20, 10, 5, 0)
_DELAY_FRAMES = 2
_STRICTEST = 3
_QUICK = 6
TABLES = ("noise", "reference", "alarms", "emotions", "cost")
# inaSpeechSegmenter, which made the labels of musanmix, calls this noise a man's voice.
_NO_VOICE_S = (29.08, 32.48)


class _SileroAlone:
    """Silero on every frame, at its usual thresholds."""

    def __init__(self) -> None:
        self._silero, self._voice = SileroVad(), False

    def is_speech(self, frame: bytes) -> bool:
        self._silero.hear(frame)
        self._voice = self._silero.probability >= (0.35 if self._voice else 0.5)
        return self._voice


DETECTORS: dict[str, Callable[[], VoiceActivityDetector]] = {
    "webrtcvad alone": lambda: WebrtcVad(_STRICTEST),
    "Silero alone": _SileroAlone,
    "ours": lambda: GatedSileroVad(SETTINGS.aggressiveness, SETTINGS.frame_ms),
}


def in_noise(corpora: Corpora, scale: float) -> Iterator[str]:
    """Frame F1 by noise and by how far it is under the speech; what ours gets wrong; what its segments hold."""
    scene, noises = corpora.sentences(scale), corpora.noises()
    yield f"## Frame F1, {len(scene.audio) / SAMPLE_RATE:.0f} s, {scene.truth.mean():.0%} of it speech: as decided / 60 ms earlier\n"
    yield from _head("noise", *DETECTORS, "ours: precision", "recall", "speech that is in its segments")
    yield _noise_row("none", scene.truth, scene.audio)
    for name in ("kitchen", "ESC-10, not vocal", "pink noise"):
        for snr_db in _SNRS_DB:
            yield _noise_row(f"{name}, {snr_db} dB", scene.truth, corpora.mixed(scene, noises[name], snr_db))
    yield ""


def _noise_row(name: str, truth: Bools, audio: Float32) -> str:
    pcm = float_to_pcm16(audio)
    found = [_regions(make(), pcm) for make in DETECTORS.values()]
    scores = [f"{_f1(truth, regions):.3f} / {_f1(truth, _earlier(regions)):.3f}" for regions in found]
    ours = _earlier(found[-1])
    hits = float((truth & ours).sum())
    kept = float((truth & _in_segments(pcm)).sum())
    return _row(name, *scores, *(f"{value:.3f}" for value in (hits / ours.sum(), hits / truth.sum(), kept / truth.sum())))


def reference(folder: Path) -> Iterator[str]:
    """The 74 s of music, noise and speech with another program's labels."""
    sound = float_to_pcm16(read_audio(folder / "musanmix.opus"))
    truth = np.zeros(len(sound) // FRAME, dtype=np.bool_)
    with (folder / "musanmix.segments.tsv").open(encoding="utf-8") as file:
        for label, start, stop in csv.reader(file, delimiter="\t"):
            if label in ("speech", "male", "female"):
                truth[_frame(float(start)) : _frame(float(stop))] = True
    without = truth.copy()
    without[_frame(_NO_VOICE_S[0]) : _frame(_NO_VOICE_S[1])] = False
    yield "## Frame F1 on musanmix, as decided / 60 ms earlier\n"
    yield from _head("labels", *DETECTORS)
    found = [_regions(make(), sound) for make in DETECTORS.values()]
    for name, labels in (("as they are", truth), ("without 3.4 s of noise labelled as a man", without)):
        yield _row(name, *(f"{_f1(labels, regions):.3f} / {_f1(labels, _earlier(regions)):.3f}" for regions in found))
    yield ""


def false_alarms(corpora: Corpora, seconds: int) -> Iterator[str]:
    """Noise without speech, at changing levels, for as long as it takes."""
    yield f"## Share of {seconds} s without speech that is called speech\n"
    yield from _head("noise (seconds of it that differ)", *DETECTORS, "in our segments")
    for name, noise in corpora.noises().items():
        pcm = float_to_pcm16(corpora.restless(noise, seconds))
        alarms = [_regions(make(), pcm).mean() for make in DETECTORS.values()]
        yield _row(f"{name} ({len(noise) / SAMPLE_RATE:.0f})", *(f"{share:.4f}" for share in (*alarms, _in_segments(pcm).mean())))
    yield ""


def emotions(corpora: Corpora, every: int) -> Iterator[str]:
    """Share of the speech that is found, and of the clips of which less than half is."""
    groups: dict[str, list[list[float]]] = defaultdict(list)
    for utterance in corpora.actors()[::every]:
        scene = clip_in_a_room(utterance)
        pcm = float_to_pcm16(scene.audio)
        shares = [_recall(scene, _earlier(_regions(make(), pcm))) for make in DETECTORS.values()]
        shares.append(_recall(scene, _in_segments(pcm)))
        strength = "strong" if utterance.path.name.split("-")[3] == "02" else "normal"
        emotion = utterance.emotion.value if utterance.emotion else "none"
        for group in (f"{emotion}, {strength}", f"{utterance.gender}", "all"):
            groups[group].append(shares)
    yield "## Speech found in clean clips of RAVDESS at their own loudness, and clips less than half found\n"
    yield from _head("emotion, intensity (clips)", *DETECTORS, "in our segments")
    for group, rows in sorted(groups.items()):
        found = np.array(rows)
        cells = (f"{share:.3f}, {missed:.0%}" for share, missed in zip(found.mean(axis=0), (found < 0.5).mean(axis=0), strict=True))
        yield _row(f"{group} ({len(found)})", *cells)
    yield ""


def cost(corpora: Corpora, seconds: int) -> Iterator[str]:
    """CPU by what is heard, and memory."""
    noises, day = corpora.noises(), corpora.quiet_day(seconds)
    talk = corpora.sentences().audio[: s_to_samples(seconds / 6)]
    sounds = {
        f"a quiet day, {day.truth.mean():.1%} speech": day.audio,
        "the same room, nobody and nothing in it": corpora.quiet_room(seconds // 6),
        "kitchen noise all along": corpora.restless(noises["kitchen"], seconds // 6),
        "pink noise all along": corpora.restless(noises["pink noise"], seconds // 6),
        "talk all along": talk,
    }
    yield "## CPU: seconds of one core for an hour of sound (against Silero alone)\n"
    yield from _head("heard", *DETECTORS, "the segmenter with ours", "of one core")
    for name, audio in sounds.items():
        pcm = float_to_pcm16(audio)
        took = [_cpu_an_hour(partial(_decisions, make()), pcm) for make in DETECTORS.values()]
        whole = _cpu_an_hour(_in_segments, pcm)
        alone = took[list(DETECTORS).index("Silero alone")]
        yield _row(name, *(f"{value:.1f} ({value / alone:.2f})" for value in (*took, whole)), f"{whole / 3600:.2%}")
    yield (
        f"\nMemory of a process with the segmenter: {_memory('import monitor.audio.segmenter')} with its imports, of which numpy "
        f"{_memory('import numpy')}; after an hour of noise {_memory(_MEMORY_PROGRAM)}.\n"
    )


# Noise that changes each second, so that Silero is awake.
_MEMORY_PROGRAM = """
import numpy as np
from monitor.config import SegmenterConfig
from monitor.audio.segmenter import Segmenter
from monitor.audio.stream import AudioChunk
segmenter, sound = Segmenter(SegmenterConfig()), np.random.default_rng(0).normal(0, 1000, 16000).astype(np.int16)
for second in range(3600):
    segmenter.push(AudioChunk(16000 * second, sound * (second % 3)))
"""


def _memory(program: str) -> str:
    # Not getrusage: a child inherits the peak of the process that started it.
    show = "\nprint(*(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    peak_kib = int(subprocess.run([sys.executable, "-c", program + show], check=True, capture_output=True, text=True).stdout)
    return f"{peak_kib / 1024:.0f} MiB"


def _cpu_an_hour(work: Callable[[Int16], object], pcm: Int16) -> float:
    before = time.process_time()
    work(pcm)
    return (time.process_time() - before) * 3600 * SAMPLE_RATE / len(pcm)


def _in_segments(pcm: Int16) -> Bools:
    """The frames that end up in a segment of the monitor's own, pre-roll and tail included; chunks as a microphone gives them."""
    segmenter, held = Segmenter(SETTINGS), np.zeros(len(pcm) // FRAME, np.bool_)
    segments = []
    for start in range(0, len(pcm), ms_to_samples(30)):
        segments += segmenter.push(AudioChunk(start, pcm[start : start + ms_to_samples(30)]))
    for segment in [*segments, *segmenter.flush()]:
        held[segment.start // FRAME : segment.end // FRAME] = True
    return held


def _decisions(detector: VoiceActivityDetector, pcm: Int16) -> Bools:
    return np.array([detector.is_speech(pcm[at : at + FRAME].tobytes()) for at in range(0, len(pcm) - FRAME + 1, FRAME)])


def _regions(detector: VoiceActivityDetector, pcm: Int16) -> Bools:
    """Decisions with pauses shorter than the hangover filled, and islands shorter than the onset dropped first."""
    return ~without_short(~without_short(_decisions(detector, pcm), SETTINGS.onset_ms), SETTINGS.hangover_ms)


def _earlier(regions: Bools) -> Bools:
    return np.concatenate([regions[_DELAY_FRAMES:], np.zeros(_DELAY_FRAMES, np.bool_)])


def _f1(truth: Bools, found: Bools) -> float:
    size = min(len(truth), len(found))
    hits = float((truth[:size] & found[:size]).sum())
    return 2 * hits / float(truth[:size].sum() + found[:size].sum())


def _recall(scene: Scene, found: Bools) -> float:
    size = min(len(scene.truth), len(found))
    return float((scene.truth[:size] & found[:size]).sum() / scene.truth.sum())


def _frame(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE / FRAME)


def _head(*columns: str) -> Iterator[str]:
    yield _row(*columns)
    yield "|---" * len(columns) + "|"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def run(manifest: Path, half: Half, quick: bool, wanted: Sequence[str]) -> Iterator[str]:
    """Markdown, table by table, as each is measured."""
    share = _QUICK if quick else 1
    makers: dict[str, Callable[[], Iterator[str]]] = {
        "noise": lambda: in_noise(Corpora(manifest, half), 1 / share),
        "reference": lambda: reference(manifest.parent / "vad"),
        "alarms": lambda: false_alarms(Corpora(manifest, half), 3600 // share),
        "emotions": lambda: emotions(Corpora(manifest, half), share),
        "cost": lambda: cost(Corpora(manifest, half), 3600 // share),
    }
    for name in wanted:
        yield from makers[name]()


def main() -> None:
    """Print the wanted tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--quick", action="store_true", help="a sixth of the sound")
    parser.add_argument("--tune", action="store_true", help="the half on which thresholds were chosen")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES, help="all by default")
    args = parser.parse_args()
    for line in run(args.manifest, Half.TUNE if args.tune else Half.REPORT, args.quick, args.tables):
        print(line, flush=True)


if __name__ == "__main__":
    main()
