"""Corpora in their official layouts, turned into utterances. A new corpus is added here, in CORPORA.

It knows folders, file names and label words of each corpus; those whose file names say everything are described as data
(`FileNameLayout`). It opens no audio, assigns no splits and writes nothing (prepare.py). Problems are collected by finder.py.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model.emotions import Emotion
from train.corpora.finder import CorpusContents, Finder, Labels, find, read_table
from train.corpora.manifest import read_corpus_manifest


@dataclass(frozen=True, slots=True)
class SpeakerInfo:
    """What a corpus publishes about one of its speakers. age: in years, at the recording."""

    gender: str
    age: int | None = None


@dataclass(frozen=True, slots=True)
class FileNameLayout:
    """How the files of one corpus are named.

    scheme: in words, for messages. pattern: of FOLDER/NAME without suffix, with the groups `speaker` and `emotion`, and `text` and
    `gender` where the name tells them; two files whose groups are all equal are the same recording. labels: by the group `emotion`.
    persons: by the group `speaker`. text: the words for the group `text`, itself unless told. no_letter: emotions, by the group
    `emotion`, that no letter stands for, in words.
    """

    scheme: str
    pattern: re.Pattern[str]
    labels: Labels
    persons: Mapping[str, SpeakerInfo] = field(default_factory=dict)
    text: Callable[[str], str | None] = str
    no_letter: Mapping[str, str] = field(default_factory=dict)


# https://database.syntheticspeech.de, "Additional Information"
EMO_DB = FileNameLayout(
    "SPEAKER TEXT EMOTION VERSION as in 03a01Fa",
    re.compile(r"(?:.*/)?(?P<speaker>\d\d)(?P<text>[ab]\d\d)(?P<emotion>[A-Z])([a-z]?)"),
    {
        "W": Emotion.ANGRY,
        "E": Emotion.DISGUST,
        "A": Emotion.FEAR,
        "F": Emotion.HAPPY,
        "T": Emotion.SAD,
        "N": Emotion.NEUTRAL,
    },
    {
        "03": SpeakerInfo("male", 31),
        "08": SpeakerInfo("female", 34),
        "09": SpeakerInfo("female", 21),
        "10": SpeakerInfo("male", 32),
        "11": SpeakerInfo("male", 26),
        "12": SpeakerInfo("male", 30),
        "13": SpeakerInfo("female", 32),
        "14": SpeakerInfo("female", 35),
        "15": SpeakerInfo("male", 25),
        "16": SpeakerInfo("female", 31),
    },
    {
        "a01": "Der Lappen liegt auf dem Eisschrank.",
        "a02": "Das will sie am Mittwoch abgeben.",
        "a04": "Heute abend könnte ich es ihm sagen.",
        "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
        "a07": "In sieben Stunden wird es soweit sein.",
        "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
        "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
        "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
        "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
        "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
    }.get,
    no_letter={"L": "boredom"},
)

# Costantini et al. (2014), EMOVO Corpus: an Italian Emotional Speech Database, LREC
EMOVO = FileNameLayout(
    "EMOTION-SPEAKER-SENTENCE as in dis-f1-b1",
    re.compile(r"(?:.*/)?(?P<emotion>[a-z]{3})-(?P<speaker>(?P<gender>[fm])\d)-(?P<text>[a-z]\d)"),
    {
        "rab": Emotion.ANGRY,
        "dis": Emotion.DISGUST,
        "pau": Emotion.FEAR,
        "gio": Emotion.HAPPY,
        "tri": Emotion.SAD,
        "sor": Emotion.SURPRISE,
        "neu": Emotion.NEUTRAL,
    },
    text={
        "b1": "Gli operai si alzano presto.",
        "b2": "I vigili sono muniti di pistola.",
        "b3": "La cascata fa molto rumore.",
        "d1": "Sabato sera cosa farà?",
        "d2": "Porti con te quella cosa?",
        "l1": "L’autunno prossimo Tony partirà per la Spagna nella prima metà di ottobre.",
        "l2": "Ora prendo la felpa di là ed esco per fare una passeggiata.",
        "l3": "Un attimo dopo s’è incamminato ... ed è inciampato.",
        "l4": "Vorrei il numero telefonico del Signor Piatti.",
        "n1": "La casa forte vuole col pane.",
        "n2": "La forza trova il passo e l’aglio rosso.",
        "n3": "Il gatto sta scorrendo nella pera.",
        "n4": "Insalata pastasciutta coscia d’agnello limoncello.",
        "n5": "Uno quarantatré dieci mille cinquantasette venti.",
    }.get,
)

# README.md of https://github.com/Ethio2021/ASED_V1; the fourth number is 01 for women, 02 for men
ASED = FileNameLayout(
    "EMOTION-SENTENCE-TAKE-GENDER-SPEAKER as in n1-01-01-01-21",
    re.compile(r"(?:.*/)?(?P<emotion>[nfhsaS])\d-(\d\d)-(\d\d)-(?P<gender>\d\d)-(?P<speaker>\d\d)"),
    {
        "n": Emotion.NEUTRAL,
        "f": Emotion.FEAR,
        "h": Emotion.HAPPY,
        "s": Emotion.SAD,
        "S": Emotion.SAD,
        "a": Emotion.ANGRY,
    },
)

# https://doi.org/10.5683/SP2/E8H2MF; a younger and an older woman, and one file is named OA instead of OAF
TESS = FileNameLayout(
    "SPEAKER_WORD_EMOTION as in OAF_back_angry",
    re.compile(r"(?:.*/)?(?P<speaker>OA|YA)F?_(?P<text>[a-z]+)_(?P<emotion>[a-z]+)"),
    {
        "angry": Emotion.ANGRY,
        "disgust": Emotion.DISGUST,
        "fear": Emotion.FEAR,
        "happy": Emotion.HAPPY,
        "sad": Emotion.SAD,
        "ps": Emotion.SURPRISE,
        "neutral": Emotion.NEUTRAL,
    },
    {"OA": SpeakerInfo("female", 64), "YA": SpeakerInfo("female", 26)},
    "Say the word {}".format,
)

# Info.txt of the release, http://kahlan.eps.surrey.ac.uk/savee; the speaker is the folder, or stands before the name in later copies
SAVEE = FileNameLayout(
    "SPEAKER/EMOTION NUMBER as in DC/sa01",
    re.compile(r"(?:.*/)?(?P<speaker>DC|JE|JK|KL)[/_](?P<emotion>[a-z]+)(\d\d)"),
    {
        "a": Emotion.ANGRY,
        "d": Emotion.DISGUST,
        "f": Emotion.FEAR,
        "h": Emotion.HAPPY,
        "sa": Emotion.SAD,
        "su": Emotion.SURPRISE,
        "n": Emotion.NEUTRAL,
    },
    dict.fromkeys(("DC", "JE", "JK", "KL"), SpeakerInfo("male")),
)

_GENDERS = {"01": "female", "02": "male"}


def read_named(finder: Finder, folder: Path, names: FileNameLayout) -> CorpusContents:
    """All audio below a folder, by its names; what is named otherwise, or is there twice, is told and left out."""
    seen: dict[tuple[str | None, ...], Path] = {}
    for path in finder.paths(folder):
        match = names.pattern.fullmatch(f"{path.parent.name}/{path.stem}")
        if match is None:
            finder.leave_out(path, f"not named {names.scheme}")
        elif match.groups() in seen:
            finder.leave_out(path, "a second file of the same name", detail=str(seen[match.groups()]))
        else:
            seen[match.groups()] = path
            _add_named(finder, path, match.groupdict(), names)
    return finder.found


def _add_named(finder: Finder, path: Path, told: Mapping[str, str], names: FileNameLayout) -> None:
    if told["emotion"] in names.no_letter:
        finder.leave_out(path, f"{names.no_letter[told['emotion']]}, for which there is no letter")
        return
    emotion = finder.emotion(path, told["emotion"], names.labels)
    if emotion is None:
        return
    person = names.persons.get(told["speaker"])
    gender = told.get("gender")
    finder.add(
        path,
        told["speaker"],
        gender=person.gender if person else _GENDERS.get(gender or "", gender),
        emotion=emotion,
        transcript=names.text(told["text"]) if "text" in told else None,
        age=person.age if person else None,
    )


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
class CorpusLayout:
    """title: its name in manifests; language: BCP 47; defines_splits: its authors say which utterance is for what."""

    title: str
    read: Callable[[Path], CorpusContents]
    license: str
    language: str
    defines_splits: bool


def read_librispeech(folder: Path) -> CorpusContents:
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


def read_msp_podcast(folder: Path) -> CorpusContents:
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


def read_ravdess(folder: Path) -> CorpusContents:
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


def read_crema_d(folder: Path) -> CorpusContents:
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


def read_iemocap(folder: Path) -> CorpusContents:
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


def read_nemo(folder: Path) -> CorpusContents:
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


def read_generic(folder: Path) -> CorpusContents:
    """A manifest that somebody has written already: the file itself, or a folder with manifest.csv or manifest.jsonl."""
    return CorpusContents(read_corpus_manifest(generic_manifest(folder)))


def generic_manifest(folder: Path) -> Path:
    """The manifest that `read_generic` reads. Raises TrainingError where there is none."""
    return folder if folder.is_file() else find(folder, "manifest.csv", "manifest.jsonl")


def _named(name: str, names: FileNameLayout) -> Callable[[Path], CorpusContents]:
    return lambda folder: read_named(_finder(name), folder, names)


def _finder(name: str) -> Finder:
    about = CORPORA[name]
    return Finder(name, about.title, about.license, about.language)


CORPORA: Mapping[str, CorpusLayout] = {
    "librispeech": CorpusLayout("LibriSpeech", read_librispeech, "CC BY 4.0", "en", defines_splits=True),
    "msp-podcast": CorpusLayout("MSP-Podcast", read_msp_podcast, "MSP-Podcast academic licence", "en", defines_splits=True),
    "ravdess": CorpusLayout("RAVDESS", read_ravdess, "CC BY-NC-SA 4.0", "en", defines_splits=False),
    "crema-d": CorpusLayout("CREMA-D", read_crema_d, "ODbL 1.0", "en", defines_splits=False),
    "iemocap": CorpusLayout("IEMOCAP", read_iemocap, "IEMOCAP release form", "en", defines_splits=False),
    "nemo": CorpusLayout("nEMO", read_nemo, "CC BY-NC-SA 4.0", "pl", defines_splits=False),
    "emo-db": CorpusLayout("EMO-DB", _named("emo-db", EMO_DB), "see its own documentation", "de", defines_splits=False),
    "emovo": CorpusLayout("EMOVO", _named("emovo", EMOVO), "not stated by its authors", "it", defines_splits=False),
    "ased": CorpusLayout("ASED", _named("ased", ASED), "not stated by its authors", "am", defines_splits=False),
    "tess": CorpusLayout("TESS", _named("tess", TESS), "CC BY-NC-ND 4.0", "en", defines_splits=False),
    "savee": CorpusLayout("SAVEE", _named("savee", SAVEE), "SAVEE, research only", "en", defines_splits=False),
    "generic": CorpusLayout("generic", read_generic, "", "", defines_splits=False),
}


def _years(text: str | None) -> int | None:
    """A table's age; None where it holds none."""
    return int(text) if text and text.isdecimal() else None
