"""Manifests: one row per utterance with speaker, emotion, transcript, split and licence, as CSV or as JSON lines.

It knows rows, files and who may stand on which side of a split. It knows no corpus's own layout (layouts.py) and never decodes
sound (prepare.py). Splits are by speaker, never by clip: a voice heard in training says nothing about a stranger's.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from model.emotions import Emotion
from model.errors import TrainingError

REQUIRED = ("path", "corpus", "speaker", "license")
OPTIONAL = ("gender", "age", "emotion", "transcript", "split", "language")
COLUMNS = ("path", "corpus", "speaker", "gender", "age", "emotion", "transcript", "split", "language", "license")
_GENDERS = {"female": "female", "f": "female", "male": "male", "m": "male"}
_OLDEST = 120
_SHOWN = 5

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording of one speaker.

    path: an audio file; speaker: unique within the corpus, "" where nobody speaks (noise) or nobody knows who; gender: "female" or
    "male"; emotion: None where the corpus gives none; language: a BCP 47 tag such as "en"; license: that of the recording;
    age: of the speaker at the recording, in whole years, where the corpus tells.
    """

    path: Path
    corpus: str
    speaker: str
    gender: str | None
    emotion: Emotion | None
    transcript: str | None
    split: str | None
    language: str | None
    license: str
    age: int | None = None


def read_corpus_manifest(path: Path) -> list[Utterance]:
    """Read a manifest, .csv or .jsonl by its suffix, with the columns REQUIRED and perhaps OPTIONAL; others are ignored.

    Paths in it are absolute or relative to its folder; `F` and `M` are read as genders too. Raises TrainingError naming the line, the
    value and what to do; files that are not there are looked for in all rows and told together.
    """
    rows = _rows(path)
    utterances = [_utterance(path, line, row) for line, row in rows]
    absent = [
        f"line {line}: {row['path']} is not there"
        for (line, row), utterance in zip(rows, utterances, strict=True)
        if not utterance.path.is_file()
    ]
    if absent:
        more = f"; and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        raise TrainingError(
            f"{path}, {'; '.join(absent[:_SHOWN])}{more} ({len(absent)} of {len(rows)} files); "
            "paths are relative to the manifest's folder: put the files there or take the rows out"
        )
    return utterances


def write_corpus_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write .csv or .jsonl by the suffix; audio under the manifest's folder is named relative to it, other audio absolutely.

    The file appears whole or not at all. Raises TrainingError for another suffix and where it cannot be written.
    """
    require_suffix(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    rows = [_row(path.parent.absolute(), utterance) for utterance in utterances]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("w", encoding="utf-8", newline="") as file:
                _write_rows(file, path.suffix, rows)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except (OSError, UnicodeEncodeError) as error:
        raise TrainingError(f"cannot write the manifest {path}: {error}; name a folder that can be written to") from error


def require_suffix(path: Path) -> None:
    """Raises TrainingError for a name that is no manifest's."""
    if path.suffix not in {".csv", ".jsonl"}:
        raise TrainingError(f"{path} is no manifest by its name; it must end in .csv or .jsonl")


def of_splits(utterances: Sequence[Utterance], splits: Collection[str]) -> list[Utterance]:
    """The utterances of some splits. Raises TrainingError for a split without utterances, listing those that have some."""
    existing = {u.split for u in utterances if u.split}
    absent = set(splits) - existing
    if absent:
        there = f"it has {', '.join(sorted(existing))}" if existing else "it has no splits at all"
        raise TrainingError(f"this manifest has no utterance in the split {', '.join(sorted(absent))}; {there}")
    return [u for u in utterances if u.split in splits]


def require_disjoint(train: Iterable[Utterance], held_out: Iterable[Utterance]) -> None:
    """Raises TrainingError when a speaker stands on both sides."""
    shared = {(u.corpus, u.speaker) for u in train} & {(u.corpus, u.speaker) for u in held_out}
    if shared:
        raise TrainingError(f"these speakers are both trained on and held out: {', '.join(sorted(s for _, s in shared))}")


def shared_speakers(utterances: Iterable[Utterance]) -> dict[str, list[str]]:
    """Speakers who stand in more than one split, each with those splits; rows without a speaker or a split are nobody's."""
    splits: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for utterance in utterances:
        if utterance.speaker and utterance.split:
            splits[utterance.corpus, utterance.speaker].add(utterance.split)
    return {f"{corpus} {speaker}": sorted(found) for (corpus, speaker), found in sorted(splits.items()) if len(found) > 1}


def require_speaker_disjoint_splits(utterances: Iterable[Utterance]) -> None:
    """Raises TrainingError when a speaker stands in more than one split."""
    shared = shared_speakers(utterances)
    if shared:
        some = "; ".join(f"{speaker} in {' and '.join(splits)}" for speaker, splits in list(shared.items())[:_SHOWN])
        raise TrainingError(f"{len(shared)} speakers stand in more than one split: {some}; give every speaker to one split")


def _write_rows(file: TextIO, suffix: str, rows: Iterable[Row]) -> None:
    if suffix == ".csv":
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        return
    for row in rows:
        given = {name: value for name, value in row.items() if value or name in REQUIRED}
        file.write(json.dumps(given, ensure_ascii=False) + "\n")


def _rows(path: Path) -> list[tuple[int, Row]]:
    require_suffix(path)
    try:
        # utf-8-sig, because spreadsheets put a byte order mark before the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(_csv_rows(path, file) if path.suffix == ".csv" else _jsonl_rows(path, file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"cannot read the manifest {path}: {error}; it must be UTF-8 text") from error


def _csv_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Row]]:
    reader = csv.DictReader(lines, restval="", strict=True)
    missing = set(REQUIRED) - set(reader.fieldnames or ())
    if missing:
        raise TrainingError(f"{path} has no column {', '.join(sorted(missing))}; a manifest has {', '.join(REQUIRED)}")
    for row in reader:
        if None in row:
            raise TrainingError(f"{path}, line {reader.line_num}: more fields than columns; quote a text that has commas in it")
        yield reader.line_num, row


def _jsonl_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise TrainingError(f"{path}, line {number}: {error}; every line is one JSON object") from error
        if not isinstance(row, dict):
            raise TrainingError(f"{path}, line {number}: {line.strip()[:40]!r} is no JSON object; every line is one")
        missing = set(REQUIRED) - row.keys()
        if missing:
            raise TrainingError(f"{path}, line {number}: no {', '.join(sorted(missing))}; a row has {', '.join(REQUIRED)}")
        yield number, {name: _text(path, number, name, row.get(name)) for name in COLUMNS}


def _text(path: Path, line: int, name: str, value: object) -> str:
    if not isinstance(value, str | None):
        raise TrainingError(f"{path}, line {line}: {name} is {value!r}; write it as a text, in quotes")
    return value or ""


def _utterance(manifest: Path, line: int, row: Row) -> Utterance:
    for name in ("path", "corpus", "license"):
        if not row[name]:
            raise TrainingError(f"{manifest}, line {line}: {name} is empty; every row needs one")
    letter, gender = row.get("emotion"), row.get("gender")
    if letter and letter not in set(Emotion):
        raise TrainingError(f"{manifest}, line {line}: {letter!r} is no emotion; use one of {', '.join(Emotion)} or nothing")
    if gender and gender.lower() not in _GENDERS:
        raise TrainingError(f"{manifest}, line {line}: {gender!r} is no gender known here; use female, male or nothing")
    age = row.get("age")
    if age and not (age.isdecimal() and int(age) <= _OLDEST):
        raise TrainingError(f"{manifest}, line {line}: {age!r} is no age; use whole years, 0 to {_OLDEST}, or nothing")
    return Utterance(
        path=manifest.parent / row["path"],
        corpus=row["corpus"],
        speaker=row["speaker"],
        gender=_GENDERS[gender.lower()] if gender else None,
        emotion=Emotion(letter) if letter else None,
        transcript=row.get("transcript") or None,
        split=row.get("split") or None,
        language=row.get("language") or None,
        license=row["license"],
        age=int(age) if age else None,
    )


def _row(folder: Path, utterance: Utterance) -> dict[str, str]:
    audio = utterance.path.absolute()
    return {
        "path": (audio.relative_to(folder) if audio.is_relative_to(folder) else audio).as_posix(),
        "corpus": utterance.corpus,
        "speaker": utterance.speaker,
        "gender": utterance.gender or "",
        "age": "" if utterance.age is None else str(utterance.age),
        "emotion": utterance.emotion or "",
        "transcript": utterance.transcript or "",
        "split": utterance.split or "",
        "language": utterance.language or "",
        "license": utterance.license,
    }
