"""Corpora whose file names say who speaks, what and how: their layouts as data, and one function that reads them all."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model.types import Emotion
from train.corpora.finder import Finder, Found, Labels


@dataclass(frozen=True, slots=True)
class Person:
    """What a corpus publishes about one of its speakers. age: in years, at the recording."""

    gender: str
    age: int | None = None


@dataclass(frozen=True, slots=True)
class FileNames:
    """How the files of one corpus are named.

    scheme: in words, for messages. pattern: of FOLDER/NAME without suffix, with the groups `speaker` and `emotion`, and `text` and
    `gender` where the name tells them; two files whose groups are all equal are the same recording. labels: by the group `emotion`.
    persons: by the group `speaker`. text: the words for the group `text`, itself unless told. no_letter: emotions, by the group
    `emotion`, that no letter stands for, in words.
    """

    scheme: str
    pattern: re.Pattern[str]
    labels: Labels
    persons: Mapping[str, Person] = field(default_factory=dict)
    text: Callable[[str], str | None] = str
    no_letter: Mapping[str, str] = field(default_factory=dict)


# https://database.syntheticspeech.de, "Additional Information"
EMO_DB = FileNames(
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
        "03": Person("male", 31),
        "08": Person("female", 34),
        "09": Person("female", 21),
        "10": Person("male", 32),
        "11": Person("male", 26),
        "12": Person("male", 30),
        "13": Person("female", 32),
        "14": Person("female", 35),
        "15": Person("male", 25),
        "16": Person("female", 31),
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
EMOVO = FileNames(
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
ASED = FileNames(
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
TESS = FileNames(
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
    {"OA": Person("female", 64), "YA": Person("female", 26)},
    "Say the word {}".format,
)

# Info.txt of the release, http://kahlan.eps.surrey.ac.uk/savee; the speaker is the folder, or stands before the name in later copies
SAVEE = FileNames(
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
    dict.fromkeys(("DC", "JE", "JK", "KL"), Person("male")),
)

_GENDERS = {"01": "female", "02": "male"}


def read_named(finder: Finder, folder: Path, names: FileNames) -> Found:
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
            _add(finder, path, match.groupdict(), names)
    return finder.found


def _add(finder: Finder, path: Path, told: Mapping[str, str], names: FileNames) -> None:
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
