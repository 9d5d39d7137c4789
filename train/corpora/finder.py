"""What every reader of a corpus shares: finding files, reading small text files, and collecting whatever does not fit.

It knows no corpus. Nothing here stops at one bad file: a corpus has hundreds of thousands, and a person wants all that are wrong at once.
"""

import csv
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from model.emotions import Emotion
from model.errors import TrainingError
from train.corpora.manifest import Utterance

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".opus", ".ogg", ".mp3"})
_GENDERS = {"f": "female", "female": "female", "m": "male", "male": "male"}

# A corpus's own label words; None for a word that says the annotators did not agree.
Labels = Mapping[str, Emotion | None]


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that is not as the corpus promises. what: the same words for all such files; kept: it is in the manifest all the same."""

    file: Path
    what: str
    kept: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CorpusContents:
    """What a corpus holds: utterances, whose audio nobody has opened yet, and everything that does not fit."""

    utterances: list[Utterance] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


class Finder:
    """Collects one corpus. Speakers are named `corpus_id`, so that the manifests of several corpora can be joined."""

    def __init__(self, name: str, title: str, license: str, language: str) -> None:  # noqa: A002
        self._name = name
        self._title = title
        self._license = license
        self._language = language
        self.found = CorpusContents()

    def add(
        self,
        path: Path,
        speaker: str,
        *,
        gender: str | None,
        emotion: Emotion | None,
        transcript: str | None,
        split: str | None = None,
        age: int | None = None,
    ) -> None:
        """Take an utterance in; a gender or a transcript that is missing is remarked on."""
        known = _GENDERS.get((gender or "").lower())
        if known is None:
            self.remark(path, "gender not known")
        if not transcript:
            self.remark(path, "no transcript")
        speaker = f"{self._name}_{speaker}"
        self.found.utterances.append(
            Utterance(path, self._title, speaker, known, emotion, transcript or None, split, self._language, self._license, age)
        )

    def leave_out(self, file: Path, what: str, detail: str = "") -> None:
        """Tell of a file that does not become an utterance."""
        self.found.problems.append(Problem(file, what, kept=False, detail=detail))

    def leave_out_unlabelled(self, audio: Mapping[str, Path], labelled: Collection[str]) -> None:
        """Tell of the audio that no label names."""
        for name in sorted(audio.keys() - set(labelled)):
            self.leave_out(audio[name], "audio without a label")

    def remark(self, file: Path, what: str) -> None:
        """Tell of a file that is not as it should be, but good enough."""
        self.found.problems.append(Problem(file, what, kept=True))

    def emotion(self, file: Path, word: str, labels: Labels) -> Emotion | None:
        """The emotion that a label word stands for; None, and the file is told to be left out, where it stands for none."""
        emotion = labels.get(word)
        if emotion is None:
            self.leave_out(file, f"no agreement on an emotion ({word})" if word in labels else f"unknown label {word!r}")
        return emotion

    def paths(self, folder: Path) -> list[Path]:
        """Audio files anywhere below a folder, sorted."""
        # Archives made on a Mac hold a "._name.wav" beside "name.wav", which is no audio.
        return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith(".")]

    def audio(self, folder: Path) -> dict[str, Path]:
        """Audio files anywhere below a folder by their names without suffix; a second one of a name is told and left out."""
        found: dict[str, Path] = {}
        for path in self.paths(folder):
            if path.stem in found:
                self.leave_out(path, "a second file of the same name", detail=str(found[path.stem]))
            else:
                found[path.stem] = path
        return found

    def text(self, path: Path) -> str:
        """A text file; nothing, and a remark, where it is missing or no text."""
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            self.remark(path, "text file is missing")
        except UnicodeDecodeError:
            self.remark(path, "text file is not UTF-8")
        return ""

    def matches(self, folder: Path, pattern: re.Pattern[str]) -> list[tuple[str, str]]:
        """The two groups of a pattern in every line that begins with it, of every text file in a folder."""
        paths = sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))
        lines = [line for path in paths for line in self.text(path).splitlines()]
        return [(match[1], match[2].strip()) for line in lines if (match := pattern.match(line))]


def find(folder: Path, *names: str) -> Path:
    """The first of some files or folders that is there. Raises TrainingError where none is."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise TrainingError(f"{folder} has no {' or '.join(names)}; name the folder that holds the corpus as its authors publish it")


def read_table(path: Path, columns: tuple[str, ...], delimiter: str = ",") -> list[dict[str, str]]:
    """Some columns of a table with a header, blanks around values removed. Raises TrainingError where a column is missing."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, restval="")
            missing = set(columns) - set(reader.fieldnames or ())
            if missing:
                raise TrainingError(f"{path} has no column {', '.join(sorted(missing))}; is it the file that its authors publish?")
            return [{name: row[name].strip() for name in columns} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"cannot read {path}: {error}; it must be a table in UTF-8") from error
