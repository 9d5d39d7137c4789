"""A corpus of six voices' tones, small enough to be learned within seconds, and recipes for it.

It knows sound and manifests, not training: falling, level and rising tones are sad, neutral and surprised, and each speaker has a pitch
of their own.
"""

import csv
import re
from pathlib import Path

import numpy as np
import soundfile

from model.audio import SAMPLE_RATE

SPEAKERS = 6
TAKES = 4
HISSES = 4
# Letter to pitch in Hz at the utterance's begin and end, and what is "said".
CONTOURS = {"S": ((190, 110), "going down"), "N": ((150, 150), "staying level"), "U": ((150, 300), "going up")}
COLUMNS = ["path", "corpus", "speaker", "emotion", "license", "transcript", "gender"]

RECIPE = """
name = "tones"
license = "CC0-1.0"
limits = ["It knows tones."]
letters = ["S", "N", "U"]
[[corpora]]
name = "tones"
by = "speaker"
share = 5
train = ["t0", "t1", "t2", "t3"]
folds = [["t0", "t1"], ["t2", "t3"]]
test = ["t4", "t5"]
[[corpora]]
name = "hisses"
by = "file"
train = ["hiss-[01].wav"]
test = ["hiss-[23].wav"]
answer = {}
[[noises]]
name = "hiss"
corpus = "hisses"
train = ["hiss-0.wav"]
test = ["hiss-3.wav"]
[encoder]
kind = "nano"
branches = 2
speeds = [1.0, 1.1]
rooms = 1
room_share = 0.2
steps = 120
learning_rate = 2e-3
weight_decay = 0.01
label_smoothing = 0.05
mixup = 0.2
average_decay = 0.95
dropout = 0.1
[mapper]
queries = 4
layers = 1
heads = 4
width = 32
[llm]
architecture = "llama"
vocabulary = 600
hidden = 64
layers = 2
heads = 1
intermediate = 96
[lora]
rank = 8
alpha = 16
[loop]
micro_batch = 6
sampling = "balanced"
[release]
strategy = "ser"
trusted_accuracy = 0.8
[[phases]]
name = "base"
trainable = ["llm"]
tasks = ["ser"]
input = "noise"
steps = 30
batch = 12
learning_rate = 3e-3
weight_decay = 0.01
warmup = 0.1
average_last = 0.25
letter_weight = 6.0
[[phases]]
name = "adapter"
trainable = ["mapper", "lora"]
tasks = ["ser"]
steps = 60
batch = 12
learning_rate = 3e-3
weight_decay = 0.01
warmup = 0.1
teacher_share = 0.5
average_last = 0.25
letter_weight = 6.0
"""

# The same in a few seconds: too short to learn, long enough to be stopped in the middle of its second phase.
QUICK = """
name = "quick"
license = "CC0-1.0"
limits = ["It knows nothing."]
letters = ["S", "N", "U"]
[[corpora]]
name = "tones"
by = "speaker"
train = ["t0", "t1", "t2"]
validation = ["t3"]
test = ["t4"]
[encoder]
kind = "nano"
steps = 4
learning_rate = 2e-3
weight_decay = 0.01
label_smoothing = 0.05
mixup = 0.2
average_decay = 0.95
dropout = 0.1
[mapper]
queries = 4
layers = 1
heads = 4
width = 32
[llm]
architecture = "llama"
vocabulary = 600
hidden = 32
layers = 1
heads = 1
intermediate = 48
[lora]
rank = 4
alpha = 8
[loop]
micro_batch = 6
sampling = "shuffle"
checkpoint_steps = 4
[release]
strategy = "ser"
trusted_accuracy = 0.8
[[phases]]
name = "base"
trainable = ["llm"]
tasks = ["ser"]
input = "noise"
steps = 6
batch = 12
learning_rate = 3e-3
weight_decay = 0.01
warmup = 0.1
average_last = 0.25
[[phases]]
name = "adapter"
trainable = ["mapper", "lora"]
tasks = ["ser", "joint"]
steps = 26
batch = 12
learning_rate = 3e-3
weight_decay = 0.01
warmup = 0.1
teacher_share = 0.5
average_last = 0.5
"""

# QUICK's in which a Whisper's statistics are heard: beside the tones hisses, a voice that reads, and one that only validates.
_CORPORA = """
[[corpora]]
name = "tones"
by = "speaker"
share = 6
train = ["t0", "t1", "t2"]
validation = ["t3"]
test = ["t4"]
[[corpora]]
name = "hisses"
by = "file"
train = ["hiss-[01].wav"]
test = ["hiss-[23].wav"]
answer = {}
[[corpora]]
name = "reading"
by = "speaker"
train = ["reader"]
answer = { N = 0.84 }
[[corpora]]
name = "others"
by = "speaker"
validation = ["other"]
[[noises]]
name = "hiss"
corpus = "hisses"
train = ["hiss-0.wav"]
test = ["hiss-3.wav"]
"""
_ENCODER = """
[encoder]
kind = "whisper"
source = "{source}"
origin = "openai/whisper-small-enough"
license = "MIT"
layers = [1, 3]
statistics = true
speeds = [1.0, 1.1]
rooms = 1
room_share = 0.25
[normalisation]
prior_segments = 2.0
"""


def write_corpus(folder: Path, hisses: bool = False) -> Path:
    """Six speakers t0 to t5, four utterances of about a second for each letter, perhaps hisses without a voice; the manifest's path."""
    rng = np.random.default_rng(0)
    rows = []
    for speaker in range(SPEAKERS):
        for letter, (pitch, words) in CONTOURS.items():
            for take in range(TAKES):
                name = f"t{speaker}-{letter}-{take}.wav"
                soundfile.write(folder / name, _tone(pitch, 0.8 + 0.1 * speaker, rng), SAMPLE_RATE)
                rows.append([name, "tones", f"t{speaker}", letter, "CC0-1.0", words, "female" if speaker % 2 else "male"])
    for number in range(HISSES if hisses else 0):
        name = f"hiss-{number}.wav"
        soundfile.write(folder / name, rng.normal(scale=0.05, size=2 * SAMPLE_RATE), SAMPLE_RATE)
        rows.append([name, "hisses", "", "", "CC0-1.0", "", ""])
    return write_manifest(folder / "manifest.csv", rows)


def write_reader(folder: Path) -> Path:
    """A manifest of what t5 says in the folder that `write_corpus` filled: a reader without labels, and a voice that only validates."""
    rows = [[f"t5-N-{take}.wav", "reading", "reader", "", "CC0-1.0", "", ""] for take in range(TAKES)]
    rows += [[f"t5-{letter}-{take}.wav", "others", "other", letter, "CC0-1.0", "", ""] for letter in "SU" for take in range(TAKES)]
    return write_manifest(folder / "reader.csv", rows)


def statistics_recipe(whisper: Path) -> str:
    """A recipe, in TOML, over a whole Whisper in a folder; of `write_corpus` with hisses and of `write_reader`."""
    text = re.sub(r"\[\[corpora\]\].*?(?=\[encoder\])", _CORPORA, QUICK, flags=re.DOTALL)
    text = re.sub(r"\[encoder\].*?(?=\[mapper\])", _ENCODER.format(source=whisper), text, flags=re.DOTALL)
    text = text.replace('sampling = "shuffle"', 'sampling = "balanced"').replace('tasks = ["ser", "joint"]', 'tasks = ["ser"]')
    return text.replace("teacher_share = 0.5", "teacher_share = 1.0\nmixup = 0.4").replace("steps = 26", "steps = 12")


def write_manifest(path: Path, rows: list[list[str]]) -> Path:
    """A manifest of rows in the order of COLUMNS; its path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return path


def _tone(pitch: tuple[int, int], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Five harmonics gliding from one pitch to another, with a little noise, 0.8 to 1.2 s."""
    hz = np.linspace(*pitch, int(SAMPLE_RATE * rng.uniform(0.8, 1.2))) * scale
    phase = 2 * np.pi * np.cumsum(hz) / SAMPLE_RATE
    harmonics = np.stack([np.sin(k * phase) / k for k in range(1, 6)])
    return np.asarray(harmonics.sum(axis=0) * 0.1 + rng.normal(scale=0.003, size=len(hz)))
