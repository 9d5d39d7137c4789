"""`corpus prepare`: reads a corpus, decodes every file, assigns speakers to splits and writes a manifest with its counts.

It knows what makes splits fair and recordings usable, and reports whatever is left out: counted on the screen, complete in a table beside
the manifest. It knows no corpus's own layout (layouts.py) and no file format of manifests (manifest.py).
"""

import argparse
import csv
import math
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from model.emotions import Emotion
from model.errors import FormatError, TrainingError
from train.corpora.finder import Problem
from train.corpora.layouts import CORPORA, generic_manifest
from train.corpora.manifest import Utterance, require_speaker_disjoint_splits, require_suffix, shared_speakers, write_corpus_manifest

SHORTEST_S = 0.1
_FILES_A_TASK = 32
_UNKNOWN_SIZE = 0x7FFF_0000
_TOLERATED_MISSING = 0.01


@dataclass(frozen=True, slots=True)
class CheckedAudio:
    """What hearing one file tells. seconds: its length; problem: why it cannot be used, if it cannot."""

    seconds: float
    problem: Problem | None = None


def check_file(path: Path, check_audio: bool) -> CheckedAudio:
    """Decode a file to its end, or read its header only, and say whether it can be trained on."""
    # Here, because --help must not wait for the audio libraries.
    from model.audio import audio_length_s

    try:
        promised_s = audio_length_s(path)
        seconds, peak = _decode(path) if check_audio else (promised_s, None)
    except FormatError as error:
        return CheckedAudio(0.0, Problem(path, "audio cannot be decoded", kept=False, detail=str(error)))
    flaw = _flaw(seconds, promised_s, _missing_share(path), peak)
    return CheckedAudio(0.0, Problem(path, flaw[0], kept=False, detail=flaw[1])) if flaw else CheckedAudio(seconds)


def check_files(paths: Sequence[Path], check_audio: bool) -> dict[Path, CheckedAudio]:
    """`check_file` for many files, on all cores; a progress bar on stderr where that is a terminal."""
    tasks = [paths[start : start + _FILES_A_TASK] for start in range(0, len(paths), _FILES_A_TASK)]
    console = Console(file=sys.stderr)
    sounds: dict[Path, CheckedAudio] = {}
    # Threads, not processes: decoding and resampling happen outside Python's lock.
    with ThreadPoolExecutor() as pool, Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("hearing the corpus", total=len(paths))
        for task, heard in zip(tasks, pool.map(lambda task: [check_file(path, check_audio) for path in task], tasks), strict=True):
            sounds.update(zip(task, heard, strict=True))
            progress.advance(bar, len(task))
    return sounds


def _missing_share(path: Path) -> float:
    """How much of a WAV file is cut off, 0 to 1, by the size in its RIFF header; libsndfile reads what is there and says nothing."""
    with path.open("rb") as file:
        header = file.read(8)
    promised = int.from_bytes(header[4:8], "little") + 8
    # Programs that write to a pipe do not know the size yet and put a number near the largest possible.
    if header[:4] != b"RIFF" or promised > _UNKNOWN_SIZE:
        return 0.0
    return 1 - min(path.stat().st_size / promised, 1.0)


def _decode(path: Path) -> tuple[float, float]:
    """Length in seconds and greatest absolute sample, NaN if any sample is; in blocks, so that a file of any length fits in memory."""
    import numpy as np

    from model.audio import samples_to_s, stream_audio

    samples, peak = 0, 0.0
    for block in stream_audio(path):
        samples += len(block)
        # np.maximum, because max() loses a NaN.
        peak = float(np.maximum(peak, np.abs(block).max(initial=0.0)))
    return samples_to_s(samples), peak


def _flaw(seconds: float, promised_s: float, missing: float, peak: float | None) -> tuple[str, str] | None:
    """What makes a recording unusable and the figure that shows it; peak: None where nothing was decoded."""
    if seconds < SHORTEST_S:
        return f"audio is shorter than {SHORTEST_S} s", f"{seconds:.3f} s"
    if missing > _TOLERATED_MISSING:
        return "audio ends before its header says", f"{missing:.0%} of the file is missing"
    if seconds < promised_s - SHORTEST_S:
        return "audio ends before its header says", f"{seconds:.2f} of {promised_s:.2f} s"
    if peak is not None and not math.isfinite(peak):
        return "audio has samples that are no numbers", ""
    if peak == 0.0:
        return "audio is silent", "every sample is zero"
    return None


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


def count(utterances: Sequence[Utterance], sounds: Mapping[Path, CheckedAudio]) -> list[SplitCounts]:
    """The counts of every split, by its name."""
    splits: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        splits.setdefault(utterance.split or "", []).append(utterance)
    return [_counts(split, chosen, sounds) for split, chosen in sorted(splits.items())]


def counts_table(counts: Sequence[SplitCounts]) -> list[str]:
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


def _counts(split: str, chosen: Sequence[Utterance], sounds: Mapping[Path, CheckedAudio]) -> SplitCounts:
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


_SHOWN = 10


@dataclass(frozen=True, slots=True)
class PreparedCorpus:
    """A manifest that was written, what is in it, and everything that is wrong with the corpus. warnings: whole sentences."""

    manifest: Path
    counts: list[SplitCounts]
    problems: list[Problem]
    warnings: list[str]

    @property
    def problems_file(self) -> Path:
        """The complete list of problems, a table of tab-separated columns; there only if there are some."""
        return _problems_file(self.manifest)


def prepare_corpus(
    name: str,
    folder: Path,
    out: Path,
    *,
    validation_speakers: Collection[str] = (),
    test_speakers: Collection[str] = (),
    check_audio: bool = True,
    overwrite: bool = False,
) -> PreparedCorpus:
    """Write the manifest `out` (.csv or .jsonl) of the corpus `name`, one of CORPORA, in `folder`.

    Speakers are named as in the corpus (`13`) or in full (`ravdess_13`). check_audio: decode every file to its end; without it only
    headers are read. Raises TrainingError for an unknown corpus, layout or speaker, a speaker in two splits where the corpus does not
    say so itself, an `out` that exists already, and a corpus in which nothing is usable.
    """
    if name not in CORPORA:
        raise TrainingError(f"unknown corpus {name!r}; use one of {', '.join(CORPORA)}")
    _refuse_out(name, folder, out, overwrite)
    found = CORPORA[name].read(folder.resolve())
    utterances = assign_splits(found.utterances, name, validation_speakers, test_speakers)
    warnings = _split_warnings(utterances, CORPORA[name].defines_splits)
    sounds = check_files([utterance.path for utterance in utterances], check_audio)
    usable = [utterance for utterance in utterances if sounds[utterance.path].problem is None]
    problems = _problems(found.problems, sounds)
    if not usable:
        raise TrainingError(f"no usable {name} files in {folder}: {_in_short(problems)}; is it the folder of that corpus?")
    write_corpus_manifest(out.parent.resolve() / out.name, usable)
    _write_problems(out, problems)
    counts = count(usable, sounds)
    write_speakers(out, counts)
    return PreparedCorpus(out, counts, problems, warnings)


def assign_splits(
    utterances: Sequence[Utterance], name: str, validation_speakers: Collection[str], test_speakers: Collection[str]
) -> list[Utterance]:
    """Give every utterance without a split one: `validation` or `test` if its speaker is named for it, else `train`.

    Raises TrainingError for a speaker who is not there or named for both, and for naming any where the corpus has splits already.
    """
    if (validation_speakers or test_speakers) and any(utterance.split for utterance in utterances):
        raise TrainingError(f"{name} has its own splits; omit --validation-speakers and --test-speakers")
    speakers = {utterance.speaker for utterance in utterances}
    validation, test = (_full_names(name, speakers, named) for named in (validation_speakers, test_speakers))
    if validation & test:
        raise TrainingError(f"{', '.join(sorted(validation & test))} cannot be in both validation and test; name every speaker once")
    split_of = {**dict.fromkeys(validation, "validation"), **dict.fromkeys(test, "test")}
    return [replace(u, split=u.split or split_of.get(u.speaker, "train")) for u in utterances]


def prepared_text(prepared: PreparedCorpus) -> str:
    """What was written and what is wrong, as text of at most 140 columns but for long paths."""
    lines = [
        f"Wrote {prepared.manifest}.",
        "",
        *counts_table(prepared.counts),
        "",
        f"Counts of every speaker: {speakers_file(prepared.manifest)}",
    ]
    lines += [f"WARNING: {warning}" for warning in prepared.warnings]
    for kept, title in ((False, "Left out"), (True, "Kept, but")):
        lines += _problem_lines(title, [problem for problem in prepared.problems if problem.kept is kept], prepared.manifest)
    if prepared.problems:
        lines += ["", f"All {len(prepared.problems)} problems: {prepared.problems_file}"]
    return "\n".join(lines)


def add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `corpus prepare`."""
    parser.set_defaults(run=run_prepare)
    parser.add_argument("name", choices=list(CORPORA), help="corpus; generic reads an existing manifest")
    parser.add_argument("folder", type=Path, help="folder of the corpus as published; generic: or the manifest itself")
    parser.add_argument("--out", type=Path, help="manifest to write, .csv or .jsonl (default: FOLDER/manifest.csv; required for generic)")
    parser.add_argument("--validation-speakers", type=_speakers, default=(), metavar="A,B", help="speakers of the validation split")
    parser.add_argument(
        "--test-speakers", type=_speakers, default=(), metavar="A,B", help="speakers of the test split; the others are for training"
    )
    parser.add_argument("--no-check-audio", dest="check_audio", action="store_false", help="read headers only, without decoding audio")
    parser.add_argument("--overwrite", action="store_true", help="overwrite an existing manifest")


def run_prepare(options: argparse.Namespace) -> None:
    """Prepare what the options name and print what came of it. Raises TrainingError as `prepare_corpus` does."""
    if options.out is None and options.name == "generic":
        raise TrainingError("generic writes a new manifest; pass --out")
    prepared = prepare_corpus(
        options.name,
        options.folder,
        options.out or options.folder / "manifest.csv",
        validation_speakers=options.validation_speakers,
        test_speakers=options.test_speakers,
        check_audio=options.check_audio,
        overwrite=options.overwrite,
    )
    print(prepared_text(prepared))


def _refuse_out(name: str, folder: Path, out: Path, overwrite: bool) -> None:
    """Everything about `out` that can be refused before hours of decoding."""
    require_suffix(out)
    if not folder.exists():
        raise TrainingError(f"{folder} does not exist; name the folder of the corpus")
    if name == "generic" and out.resolve() == generic_manifest(folder).resolve():
        raise TrainingError(f"{out} is the input manifest; choose another --out")
    if out.exists() and not overwrite:
        raise TrainingError(f"{out} exists already; choose another --out or pass --overwrite")


def _split_warnings(utterances: Sequence[Utterance], defined: bool) -> list[str]:
    """A corpus's own splits are kept as they are, since others' results are on them; ours must be disjoint."""
    if not defined:
        require_speaker_disjoint_splits(utterances)
        return []
    shared = shared_speakers(utterances)
    some = "; ".join(f"{speaker} in {' and '.join(splits)}" for speaker, splits in list(shared.items())[:_SHOWN])
    return [f"{len(shared)} speakers stand in more than one of the corpus's own splits: {some}"] if shared else []


def _problems(found: Sequence[Problem], sounds: Mapping[Path, CheckedAudio]) -> list[Problem]:
    """All problems, but nothing that was remarked on a file as kept which turned out to be unusable."""
    unusable = {path: sound.problem for path, sound in sounds.items() if sound.problem is not None}
    return [problem for problem in found if not (problem.kept and problem.file in unusable)] + list(unusable.values())


def _by_kind(problems: Sequence[Problem]) -> list[tuple[str, list[Problem]]]:
    """Problems by what they are, the most frequent first."""
    kinds = Counter(problem.what for problem in problems)
    return [(what, [problem for problem in problems if problem.what == what]) for what, _ in kinds.most_common()]


def _in_short(problems: Sequence[Problem]) -> str:
    return "; ".join(f"{what} ({len(some)})" for what, some in _by_kind(problems)) or "no utterance was found"


def _problem_lines(title: str, problems: Sequence[Problem], manifest: Path) -> list[str]:
    lines = []
    for what, some in _by_kind(problems):
        lines += ["", f"{title}: {what}: {len(some)}"]
        lines += [f"  {_shown(problem.file, manifest)}" for problem in some[:_SHOWN]]
        if len(some) > _SHOWN:
            lines.append(f"  and {len(some) - _SHOWN} more")
    return lines


def _shown(file: Path, manifest: Path) -> str:
    folder = manifest.parent.resolve()
    return str(file.relative_to(folder) if file.is_relative_to(folder) else file)


def _write_problems(manifest: Path, problems: Sequence[Problem]) -> None:
    path = _problems_file(manifest)
    try:
        # A list from an earlier run would tell of a corpus that is repaired by now.
        path.unlink(missing_ok=True)
        if problems:
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter="\t")
                writer.writerow(["file", "problem", "kept", "detail"])
                writer.writerows([p.file, p.what, "yes" if p.kept else "no", p.detail] for p in problems)
    except (OSError, UnicodeEncodeError) as error:
        raise TrainingError(f"cannot write the list of problems {path}: {error}") from error


def _problems_file(manifest: Path) -> Path:
    return manifest.with_name(f"{manifest.name}.problems.tsv")


def _speakers(text: str) -> tuple[str, ...]:
    return tuple(speaker.strip() for speaker in text.split(",") if speaker.strip())


def _full_names(name: str, speakers: Collection[str], named: Collection[str]) -> set[str]:
    found = {speaker: f"{name}_{speaker}" if f"{name}_{speaker}" in speakers else speaker for speaker in named}
    absent = sorted(speaker for speaker, full in found.items() if full not in speakers)
    if absent:
        there = ", ".join(sorted(speaker.removeprefix(f"{name}_") for speaker in speakers if speaker)[:40]) or "none"
        raise TrainingError(f"{name} has no speaker {', '.join(absent)} here; it has {there}")
    return set(found.values())
