"""What a manifest holds, by split, speaker and letter: in short for the screen, in full as a table beside the manifest."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.errors import TrainingError
from model.types import Emotion
from train.corpora.audio_check import Sound
from train.corpora.manifest import Utterance


@dataclass(frozen=True, slots=True)
class SplitCounts:
    """What one split holds. letters: utterances of each emotion; unlabelled: those without one; by_speaker: the letters of each."""

    split: str
    utterances: int
    speakers: int
    hours: float
    letters: Counter[Emotion]
    unlabelled: int
    by_speaker: Mapping[str, Counter[Emotion | None]]


def count(utterances: Sequence[Utterance], sounds: Mapping[Path, Sound]) -> list[SplitCounts]:
    """The counts of every split, by its name."""
    splits: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        splits.setdefault(utterance.split or "", []).append(utterance)
    return [_counts(split, chosen, sounds) for split, chosen in sorted(splits.items())]


def to_lines(counts: Sequence[SplitCounts]) -> list[str]:
    """A table of all splits; `a speaker` is the fewest and the most utterances that one of them has."""
    letters = [letter for letter in Emotion if any(letter in split.letters for split in counts)]
    rows = [["split", "utterances", "speakers", "a speaker", "hours", *letters, "unlabelled"]]
    for c in counts:
        sizes = [sum(letters_of.values()) for speaker, letters_of in c.by_speaker.items() if speaker] or [0]
        figures = [str(c.utterances), str(c.speakers), f"{min(sizes)} to {max(sizes)}", f"{c.hours:.2f}"]
        rows.append([c.split, *figures, *(str(c.letters[letter]) for letter in letters), str(c.unlabelled)])
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [row[0].ljust(first) + "".join(cell.rjust(width + 2) for cell, width in zip(row[1:], others, strict=True)) for row in rows]


def speakers_file(manifest: Path) -> Path:
    """Where `write_speakers` writes."""
    return manifest.with_name(f"{manifest.name}.speakers.tsv")


def write_speakers(manifest: Path, counts: Sequence[SplitCounts]) -> None:
    """Every speaker's utterances by letter, as tab-separated columns. Raises TrainingError where it cannot be written."""
    path = speakers_file(manifest)
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerow(["split", "speaker", "utterances", *Emotion, "unlabelled"])
            for split in counts:
                for speaker, letters in sorted(split.by_speaker.items()):
                    writer.writerow([split.split, speaker, letters.total(), *(letters[letter] for letter in Emotion), letters[None]])
    except (OSError, UnicodeEncodeError) as error:
        raise TrainingError(f"cannot write the table of speakers {path}: {error}") from error


def _counts(split: str, chosen: Sequence[Utterance], sounds: Mapping[Path, Sound]) -> SplitCounts:
    by_speaker: dict[str, Counter[Emotion | None]] = {}
    for utterance in chosen:
        by_speaker.setdefault(utterance.speaker, Counter())[utterance.emotion] += 1
    return SplitCounts(
        split=split,
        utterances=len(chosen),
        speakers=len({(u.corpus, u.speaker) for u in chosen if u.speaker}),
        hours=sum(sounds[u.path].seconds for u in chosen) / 3600,
        letters=Counter(u.emotion for u in chosen if u.emotion is not None),
        unlabelled=sum(u.emotion is None for u in chosen),
        by_speaker=by_speaker,
    )
