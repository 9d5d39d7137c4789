"""Corpora in their official layouts, turned into utterances.

It knows folders, file names and label words of each corpus. It opens no audio, assigns no splits of its own and writes nothing: that
is train/corpora/prepare.py. What is wrong with a file is collected by train/corpora/finder.py.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from model.types import Emotion
from train.corpora.finder import Finder, Found, Labels, find, read_table
from train.corpora.manifest import read_manifest
from train.corpora.named import ASED, EMO_DB, EMOVO, SAVEE, TESS, FileNames, read_named

_MSP_PODCAST: Labels = {**{letter.value: letter for letter in Emotion}, "X": None}
_RAVDESS: Labels = {
    "01": Emotion.NEUTRAL,
    "02": Emotion.NEUTRAL,  # calm, which MSP-Podcast's letters do not have
    "03": Emotion.HAPPY,
    "04": Emotion.SAD,
    "05": Emotion.ANGRY,
    "06": Emotion.FEAR,
    "07": Emotion.DISGUST,
    "08": Emotion.SURPRISE,
}
_RAVDESS_STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
_CREMA_D: Labels = {
    "ANG": Emotion.ANGRY,
    "DIS": Emotion.DISGUST,
    "FEA": Emotion.FEAR,
    "HAP": Emotion.HAPPY,
    "NEU": Emotion.NEUTRAL,
    "SAD": Emotion.SAD,
}
_CREMA_D_SENTENCES = {
    "DFA": "Don't forget a jacket",
    "IEO": "It's eleven o'clock",
    "IOM": "I'm on my way to the meeting",
    "ITH": "I think I have a doctor's appointment",
    "ITS": "I think I've seen this before",
    "IWL": "I would like a new alarm clock",
    "IWW": "I wonder what this is about",
    "MTI": "Maybe tomorrow it will be cold",
    "TAI": "The airplane is almost full",
    "TIE": "That is exactly what happened",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
_IEMOCAP: Labels = {
    "ang": Emotion.ANGRY,
    "sad": Emotion.SAD,
    "hap": Emotion.HAPPY,
    "exc": Emotion.HAPPY,
    "sur": Emotion.SURPRISE,
    "fea": Emotion.FEAR,
    "dis": Emotion.DISGUST,
    "neu": Emotion.NEUTRAL,
    "fru": Emotion.OTHER,
    "oth": Emotion.OTHER,
    "xxx": None,
}
_NEMO: Labels = {
    "anger": Emotion.ANGRY,
    "fear": Emotion.FEAR,
    "happiness": Emotion.HAPPY,
    "neutral": Emotion.NEUTRAL,
    "sadness": Emotion.SAD,
    "surprised": Emotion.SURPRISE,
}
_MSP_SPLITS = frozenset({"train", "development", "test1", "test2", "test3"})
_IEMOCAP_LABEL = re.compile(r"\[[\d.]+ - [\d.]+\]\t(\S+)\t(\w+)\t")
_IEMOCAP_TEXT = re.compile(r"(Ses\S+) \[[\d.]+-[\d.]+\]: ?(.*)")


@dataclass(frozen=True, slots=True)
class Corpus:
    """title: its name in manifests; language: BCP 47; defines_splits: its authors say which utterance is for what."""

    title: str
    read: Callable[[Path], Found]
    license: str
    language: str
    defines_splits: bool


def read_librispeech(folder: Path) -> Found:
    """LibriSpeech, read books without emotions; layout: README.TXT of the release, https://www.openslr.org/12.

    SUBSET/SPEAKER/CHAPTER holds `SPEAKER-CHAPTER-NNNN.flac` and their words in `SPEAKER-CHAPTER.trans.txt`; a subset is a split.
    """
    finder = _finder("librispeech")
    speakers = find(folder, "SPEAKERS.TXT", "LibriSpeech/SPEAKERS.TXT")
    fields = [line.split("|") for line in finder.text(speakers).splitlines() if not line.startswith(";")]
    genders = {line[0].strip(): line[1].strip() for line in fields if len(line) > 1}
    chapters = (path for subset in ("train-*", "dev-*", "test-*") for path in speakers.parent.glob(f"{subset}/*/*") if path.is_dir())
    for chapter in sorted(chapters):
        subset, speaker = chapter.parent.parent.name, chapter.parent.name
        lines = finder.text(chapter / f"{speaker}-{chapter.name}.trans.txt").splitlines()
        words = dict(line.split(" ", 1) for line in lines if " " in line)
        # In capitals as published, words cost half as many tokens again, and a model would learn two spellings of everything.
        audio = finder.audio(chapter)
        for name, path in audio.items():
            finder.add(
                path,
                speaker,
                gender=genders.get(speaker),
                emotion=None,
                transcript=words[name].lower() if name in words else None,
                split=subset,
            )
        for name in sorted(words.keys() - audio.keys()):
            finder.leave_out(chapter / f"{name}.flac", "audio is missing")
    return finder.found


def read_msp_podcast(folder: Path) -> Found:
    """MSP-Podcast 1.11 and later; layout: readme.txt of the release, https://www.lab-msp.com/MSP/MSP-Podcast.html.

    Some utterances have the speaker `Unknown`. They are kept as one speaker per recording and split: one for all of them would make one
    person of hundreds, and one per utterance would make strangers of neighbours; both would mislead an interval over speakers. The split
    is part of the name because the corpus, not we, vouches that its splits are apart.
    """
    finder = _finder("msp-podcast")
    labels = find(folder, "Labels/labels_consensus.csv", "Labels/Labels/labels_consensus.csv")
    audio = finder.audio(folder / "Audios")
    transcripts = {path.stem: path for path in (folder / "Transcripts").rglob("*.txt")}
    labelled = set()
    for row in read_table(labels, ("FileName", "EmoClass", "Gender", "SpkrID", "Split_Set")):
        name, split = Path(row["FileName"]).stem, row["Split_Set"].lower()
        labelled.add(name)
        if name not in audio:
            finder.leave_out(folder / "Audios" / row["FileName"], "audio is missing")
        elif split not in _MSP_SPLITS:
            finder.leave_out(audio[name], f"unknown split {row['Split_Set']!r}")
        elif (emotion := finder.emotion(audio[name], row["EmoClass"], _MSP_PODCAST)) is not None:
            speaker = row["SpkrID"]
            if speaker.lower() in {"", "unknown"}:
                speaker = f"unknown_{'_'.join(name.split('_')[:2])}_{split}"
                finder.remark(audio[name], "speaker not known: one is assumed per recording and split")
            transcript = finder.text(transcripts[name]).strip() if name in transcripts else None
            finder.add(audio[name], speaker, gender=row["Gender"], emotion=emotion, transcript=transcript, split=split)
    finder.leave_out_unlabelled(audio, labelled)
    return finder.found


def read_ravdess(folder: Path) -> Found:
    """RAVDESS; layout: "File naming convention" at https://zenodo.org/records/1188976.

    Actor_NN/ holds modality-channel-emotion-intensity-statement-repetition-actor; only audio of speech (03-01) is used.
    """
    finder = _finder("ravdess")
    for name, path in finder.audio(folder).items():
        if not re.fullmatch(r"\d\d(-\d\d){6}", name):
            finder.leave_out(path, "not named by seven numbers as RAVDESS names its files")
            continue
        modality, channel, code, _, statement, _, actor = name.split("-")
        if (modality, channel) != ("03", "01"):
            finder.leave_out(path, "not audio-only speech (03-01)")
        elif (emotion := finder.emotion(path, code, _RAVDESS)) is not None:
            gender = "female" if int(actor) % 2 == 0 else "male"
            finder.add(path, actor, gender=gender, emotion=emotion, transcript=_RAVDESS_STATEMENTS.get(statement))
    return finder.found


def read_crema_d(folder: Path) -> Found:
    """CREMA-D; layout: README.md of https://github.com/CheyneyComputerScience/CREMA-D. Names are ACTOR_SENTENCE_EMOTION_LEVEL."""
    finder = _finder("crema-d")
    actors = {row["ActorID"]: row for row in read_table(find(folder, "VideoDemographics.csv"), ("ActorID", "Age", "Sex"))}
    for name, path in finder.audio(find(folder, "AudioWAV")).items():
        if not re.fullmatch(r"\d{4}_[A-Z]{3}_[A-Z]{3}_[A-Z]+", name):
            finder.leave_out(path, "not named ACTOR_SENTENCE_EMOTION_LEVEL as CREMA-D names its files")
            continue
        actor, sentence, code, _ = name.split("_")
        if (emotion := finder.emotion(path, code, _CREMA_D)) is not None:
            about = actors.get(actor, {})
            words = _CREMA_D_SENTENCES.get(sentence)
            finder.add(path, actor, gender=about.get("Sex"), emotion=emotion, transcript=words, age=_years(about.get("Age")))
    return finder.found


def read_iemocap(folder: Path) -> Found:
    """IEMOCAP; layout: https://sail.usc.edu/iemocap/release_form.php and README.txt of the release.

    In `Ses01F_impro01_M000` the first letter is whose face was tracked in the dialogue, the second who speaks: the man of session 1.
    Excitement counts as happy, frustration and `oth` as other; what the annotators did not agree on (`xxx`) is left out.
    """
    finder = _finder("iemocap")
    for session in sorted([*folder.glob("Session[1-5]"), *folder.glob("IEMOCAP_full_release/Session[1-5]")]):
        audio = finder.audio(session / "sentences/wav")
        words = dict(finder.matches(session / "dialog/transcriptions", _IEMOCAP_TEXT))
        labels = dict(finder.matches(session / "dialog/EmoEvaluation", _IEMOCAP_LABEL))
        for name, code in labels.items():
            if name not in audio:
                finder.leave_out(session / "sentences/wav" / name.rpartition("_")[0] / f"{name}.wav", "audio is missing")
            elif (emotion := finder.emotion(audio[name], code, _IEMOCAP)) is not None:
                sex = name.rpartition("_")[2][0]
                finder.add(audio[name], name[:5] + sex, gender=sex, emotion=emotion, transcript=words.get(name))
        finder.leave_out_unlabelled(audio, labels.keys())
    return finder.found


def read_nemo(folder: Path) -> Found:
    """nEMO, Polish; layout: https://github.com/amu-cai/nEMO, columns also at https://huggingface.co/datasets/amu-cai/nEMO."""
    finder = _finder("nemo")
    table = find(folder, "data.tsv", "data.csv")
    audio = finder.audio(folder / "samples")
    rows = read_table(table, ("file_id", "emotion", "raw_text", "speaker_id", "gender", "age"), "\t" if table.suffix == ".tsv" else ",")
    for row in rows:
        name = Path(row["file_id"]).stem
        if name not in audio:
            finder.leave_out(folder / "samples" / row["file_id"], "audio is missing")
        elif (emotion := finder.emotion(audio[name], row["emotion"], _NEMO)) is not None:
            words, age = row["raw_text"], _years(row["age"])
            finder.add(audio[name], row["speaker_id"], gender=row["gender"], emotion=emotion, transcript=words, age=age)
    finder.leave_out_unlabelled(audio, {Path(row["file_id"]).stem for row in rows})
    return finder.found


def read_generic(folder: Path) -> Found:
    """A manifest that somebody has written already: the file itself, or a folder with manifest.csv or manifest.jsonl."""
    return Found(read_manifest(generic_manifest(folder)))


def generic_manifest(folder: Path) -> Path:
    """The manifest that `read_generic` reads. Raises TrainingError where there is none."""
    return folder if folder.is_file() else find(folder, "manifest.csv", "manifest.jsonl")


def _named(name: str, names: FileNames) -> Callable[[Path], Found]:
    return lambda folder: read_named(_finder(name), folder, names)


CORPORA: Mapping[str, Corpus] = {
    "librispeech": Corpus("LibriSpeech", read_librispeech, "CC BY 4.0", "en", defines_splits=True),
    "msp-podcast": Corpus("MSP-Podcast", read_msp_podcast, "MSP-Podcast academic licence", "en", defines_splits=True),
    "ravdess": Corpus("RAVDESS", read_ravdess, "CC BY-NC-SA 4.0", "en", defines_splits=False),
    "crema-d": Corpus("CREMA-D", read_crema_d, "ODbL 1.0", "en", defines_splits=False),
    "iemocap": Corpus("IEMOCAP", read_iemocap, "IEMOCAP release form", "en", defines_splits=False),
    "nemo": Corpus("nEMO", read_nemo, "CC BY-NC-SA 4.0", "pl", defines_splits=False),
    "emo-db": Corpus("EMO-DB", _named("emo-db", EMO_DB), "see its own documentation", "de", defines_splits=False),
    "emovo": Corpus("EMOVO", _named("emovo", EMOVO), "not stated by its authors", "it", defines_splits=False),
    "ased": Corpus("ASED", _named("ased", ASED), "not stated by its authors", "am", defines_splits=False),
    "tess": Corpus("TESS", _named("tess", TESS), "CC BY-NC-ND 4.0", "en", defines_splits=False),
    "savee": Corpus("SAVEE", _named("savee", SAVEE), "SAVEE, research only", "en", defines_splits=False),
    "generic": Corpus("generic", read_generic, "", "", defines_splits=False),
}


def _years(text: str | None) -> int | None:
    """A table's age; None where it holds none."""
    return int(text) if text and text.isdecimal() else None


def _finder(name: str) -> Finder:
    about = CORPORA[name]
    return Finder(name, about.title, about.license, about.language)
