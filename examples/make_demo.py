"""Puts examples/demo.opus together: two clips per emotion of one actor, in a shuffled order, with pauses in a kitchen.

Run as `python -m examples.make_demo DATA`, DATA a folder with manifest.csv and the audio it names. The clips are drawn, not chosen by
what the model makes of them. examples/demo.tsv says what was acted when.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import soundfile

from model.audio import SAMPLE_RATE, Float32, read_audio, s_to_samples, samples_to_s
from model.emotions import Emotion

_HERE = Path(__file__).parent
_SPEAKER = "ravdess_18"
_CLIPS_PER_EMOTION = 2
_PAUSE_S = (1.5, 4.0)
_KITCHEN_DB_UNDER_SPEECH = 22.0
_HOUSEHOLD = ("005_-_Clock_tick", "006_-_Person_sneeze")
_PEAK = 0.9


def main(data: Path) -> None:
    """Write the recording and its table beside this file."""
    rng = np.random.default_rng(18)
    clips = _draw(data, rng)
    pieces: list[Float32] = []
    table = []
    position = 0
    for number, (path, emotion) in enumerate(clips):
        pause = np.zeros(s_to_samples(rng.uniform(*_PAUSE_S)), np.float32)
        if number in (4, 9):
            sound = read_audio(sorted((data / "esc10" / _HOUSEHOLD[number == 9]).glob("*.opus"))[0])[: SAMPLE_RATE * 3]
            pause = np.concatenate([pause, sound * 0.1, pause])
        speech = read_audio(path)
        table.append((position + len(pause), position + len(pause) + len(speech), emotion.word, path.name))
        pieces += [pause, speech]
        position += len(pause) + len(speech)
    speech = np.concatenate(pieces)
    kitchen = np.resize(read_audio(data / "noise" / "kitchen.opus"), len(speech))
    kitchen *= _rms(speech) / _rms(kitchen) * 10 ** (-_KITCHEN_DB_UNDER_SPEECH / 20)
    mix = speech + kitchen
    mix *= _PEAK / np.abs(mix).max()
    soundfile.write(_HERE / "demo.opus", mix, SAMPLE_RATE, format="OGG", subtype="OPUS")
    with (_HERE / "demo.tsv").open("w", encoding="utf-8", newline="") as file:
        rows = [(f"{samples_to_s(start):.2f}", f"{samples_to_s(end):.2f}", *rest) for start, end, *rest in table]
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([("start_s", "end_s", "acted", "clip"), *rows])


def _draw(data: Path, rng: np.random.Generator) -> list[tuple[Path, Emotion]]:
    with (data / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["speaker"] == _SPEAKER]
    drawn: list[tuple[Path, Emotion]] = []
    for letter in sorted({row["emotion"] for row in rows}):
        paths = [data / row["path"] for row in rows if row["emotion"] == letter]
        drawn += [(paths[i], Emotion(letter)) for i in rng.choice(len(paths), _CLIPS_PER_EMOTION, replace=False)]
    return [drawn[i] for i in rng.permutation(len(drawn))]


def _rms(sound: Float32) -> float:
    return float(np.sqrt(np.mean(sound**2)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
