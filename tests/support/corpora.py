"""Corpora to train and prepare: miniature archives in their official layouts, and six voices' tones that are learned within seconds."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile

from model.audio import SAMPLE_RATE

RATE = 16_000


def voice(path: Path, seconds: float = 0.3, pitch_hz: float = 150) -> Path:
    """A recording of a hum, in the format that the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = 0.2 * np.sin(2 * np.pi * pitch_hz * np.arange(int(seconds * RATE)) / RATE)
    if path.suffix == ".opus":
        soundfile.write(path, sound, RATE, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, sound, RATE)
    return path


def write(path: Path, *lines: str) -> Path:
    """A text file of some lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def librispeech(folder: Path) -> Path:
    """Two speakers in two subsets; the second chapter of 84 has no words."""
    root = folder / "LibriSpeech"
    write(
        root / "SPEAKERS.TXT",
        "; Some lines of comment | with bars",
        ";ID  |SEX| SUBSET           |MINUTES| NAME",
        "19   | F | train-clean-100  | 25.19 | Kara Shallenberg",
        "84   | M | dev-clean        | 8.02  | Christie | Nowak",
    )
    for name in ("train-clean-100/19/198/19-198-0000", "train-clean-100/19/198/19-198-0001", "dev-clean/84/121123/84-121123-0000"):
        voice(root / f"{name}.flac")
    write(root / "train-clean-100/19/198/19-198.trans.txt", "19-198-0000 NORTHANGER ABBEY", "19-198-0001 THIS LITTLE WORK")
    write(root / "dev-clean/84/121123/84-121123.trans.txt", "84-121123-0000 GO DO YOU HEAR", "84-121123-0001 BUT IN LESS")
    voice(root / "dev-clean/84/121550/84-121550-0000.flac")
    return folder


def msp_podcast(folder: Path, rows: Mapping[str, str] | None = None) -> Path:
    """Rows: file stem to "EmoClass,SpkrID,Gender,Split_Set"; every one has audio and a transcript."""
    rows = rows or {
        "MSP-PODCAST_0001_0008": "N,30,Male,Test1",
        "MSP-PODCAST_0001_0009": "A,Unknown,Unknown,Train",
        "MSP-PODCAST_0001_0010": "C,Unknown,Female,Train",
        "MSP-PODCAST_0001_0011": "S,Unknown,Female,Development",
        "MSP-PODCAST_0002_0001": "X,31,Female,Train",
        "MSP-PODCAST_0002_0002": "O,31,Female,Train",
    }
    lines = []
    for name, row in rows.items():
        emotion, speaker, gender, split = row.split(",")
        lines.append(f"{name}.wav,{emotion},4.0,4.0,4.0,{speaker},{gender},{split}")
        voice(folder / "Audios" / f"{name}.wav")
        write(folder / "Transcripts" / f"{name}.txt", "well you know")
    write(folder / "Labels/labels_consensus.csv", "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set", *lines)
    return folder


def ravdess(folder: Path, suffix: str = ".wav") -> Path:
    """Four actors, each neutral, calm and angry."""
    for actor in ("01", "02", "03", "04"):
        for middle in ("01-01-01-01", "02-01-02-01", "05-02-01-02"):
            voice(folder / f"Actor_{actor}" / f"03-01-{middle}-{actor}{suffix}")
    return folder


def crema_d(folder: Path) -> Path:
    """Two actors, three recordings."""
    write(
        folder / "VideoDemographics.csv", '"ActorID","Age","Sex","Race","Ethnicity"', '1001,51,"Male","a","b"', '1002,21,"Female","a","b"'
    )
    for name in ("1001_DFA_ANG_XX", "1001_IEO_HAP_LO", "1002_WSI_NEU_XX"):
        voice(folder / "AudioWAV" / f"{name}.wav")
    return folder


def iemocap(folder: Path) -> Path:
    """One dialogue of session 1, with a Mac's shadow file and a comment line as in the release."""
    session = folder / "IEMOCAP_full_release/Session1"
    labels = {"F000": "neu", "F001": "exc", "F002": "xxx", "M000": "fru", "M001": "ang"}
    name = "Ses01F_impro01"
    write(
        session / f"dialog/EmoEvaluation/{name}.txt",
        "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]",
        "",
        *(
            f"[6.2901 - 8.2357]\t{name}_{turn}\t{emotion}\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()"
            for turn, emotion in labels.items()
        ),
    )
    write(
        session / f"dialog/transcriptions/{name}.txt",
        *(f"{name}_{turn} [006.2901-008.2357]: Turn {turn}." for turn in labels),
        "M: A line without a name.",
    )
    for turn in labels:
        voice(session / f"sentences/wav/{name}/{name}_{turn}.wav")
    write(session / f"sentences/wav/{name}/._{name}_F000.wav", "Mac OS X")
    return folder


def nemo(folder: Path) -> Path:
    """Two speakers; the blanks before the speaker are the release's own."""
    rows = {"WR0_surprised_64.wav": "surprised\t„Ród smoka” to serial.\tród smoka to serial\t        WR0\tmale\t23"}
    rows["EB0_neutral_13.wav"] = "neutral\tInteresuje mnie historia.\tinteresuje mnie historia\t        EB0\tfemale\t27"
    header = "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage"
    write(folder / "data.tsv", header, *(f"{name}\t{row}" for name, row in rows.items()))
    for name in rows:
        voice(folder / "samples" / name)
    return folder


def emo_db(folder: Path) -> Path:
    """Two actors; one sentence in two versions, and a bored one."""
    for name in ("03a01Fa", "03a01Fb", "16b10Tb", "16b10Nc", "16a02Lb"):
        voice(folder / "wav" / f"{name}.wav")
    return folder


def emovo(folder: Path) -> Path:
    """A woman and a man."""
    for name in ("f1/dis-f1-b1", "f1/sor-f1-n5", "m2/neu-m2-d1"):
        voice(folder / "EMOVO" / f"{name}.wav")
    return folder


def ased(folder: Path) -> Path:
    """Two speakers, and the release's one capital letter."""
    for name in ("01Neutral/n1-01-01-01-21", "04Sad/s4-03-02-02-58", "04Sad/S4-03-01-02-58"):
        voice(folder / f"{name}.wav")
    return folder


def tess(folder: Path) -> Path:
    """Both women, one file as the release misnames it, and the copy of everything that some archives hold."""
    for name in ("OAF_angry/OAF_back_angry", "YAF_pleasant_surprised/YAF_dog_ps", "OAF_neutral/OA_bite_neutral"):
        voice(folder / f"{name}.wav")
        voice(folder / "again" / f"{name}.wav")
    return folder


def savee(folder: Path) -> Path:
    """Two men as published; the same number twice is two recordings."""
    for name in ("DC/sa01", "DC/a01", "JK/a01"):
        voice(folder / "AudioData" / f"{name}.wav")
    return folder


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
