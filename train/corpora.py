"""Corpora as manifests: one row per utterance with speaker, emotion and licence. Splits are by speaker, never by clip."""

import csv
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from model.errors import TrainingError
from model.types import Emotion

_COLUMNS = ("path", "corpus", "speaker", "emotion", "license")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One labelled recording of one speaker. path: an audio file; emotion: None where the corpus gives none."""

    path: Path
    corpus: str
    speaker: str
    emotion: Emotion | None
    license: str


def read_manifest(path: Path) -> list[Utterance]:
    """Read a CSV manifest; paths are relative to its folder. Raises TrainingError naming the line and what is wrong with it."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = set(_COLUMNS) - set(reader.fieldnames or ())
            if missing:
                raise TrainingError(f"{path} has no column {', '.join(sorted(missing))}; a manifest has {', '.join(_COLUMNS)}")
            return [_utterance(path, number, row) for number, row in enumerate(reader, start=2)]
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"cannot read the manifest {path}: {error}") from error


def of_speakers(utterances: Iterable[Utterance], corpus: str, speakers: Collection[str]) -> list[Utterance]:
    """The labelled utterances of some speakers of one corpus. Raises TrainingError for a speaker who is not there."""
    chosen = [u for u in utterances if u.corpus == corpus and u.speaker in speakers and u.emotion is not None]
    absent = set(speakers) - {u.speaker for u in chosen}
    if absent:
        raise TrainingError(f"{corpus} has no labelled utterance of {', '.join(sorted(absent))} in this manifest")
    return chosen


def require_disjoint(train: Iterable[Utterance], held_out: Iterable[Utterance]) -> None:
    """Raises TrainingError when a speaker stands on both sides."""
    shared = {(u.corpus, u.speaker) for u in train} & {(u.corpus, u.speaker) for u in held_out}
    if shared:
        raise TrainingError(f"these speakers are both trained on and held out: {', '.join(sorted(s for _, s in shared))}")


def _utterance(manifest: Path, line: int, row: dict[str, str]) -> Utterance:
    letter = row["emotion"]
    if letter and letter not in set(Emotion):
        raise TrainingError(f"{manifest}, line {line}: {letter!r} is no emotion; use one of {', '.join(Emotion)} or nothing")
    audio = manifest.parent / row["path"]
    if not audio.is_file():
        raise TrainingError(f"{manifest}, line {line}: {row['path']} is not there")
    return Utterance(audio, row["corpus"], row["speaker"], Emotion(letter) if letter else None, row["license"])
