"""`corpus prepare`: reads a corpus, hears every file of it, gives speakers to splits and writes a manifest.

It knows what makes splits fair, and tells whatever is left out: counted on the screen, complete in a table beside the manifest. It knows
no corpus's layout (train/corpora/layouts.py), no file format of manifests (manifest.py) and not what usable sound is (audio_check.py).
"""

import argparse
import csv
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.errors import TrainingError
from train.corpora.audio_check import Sound, hear_all
from train.corpora.counts import SplitCounts, count, speakers_file, to_lines, write_speakers
from train.corpora.finder import Problem
from train.corpora.layouts import CORPORA, generic_manifest
from train.corpora.manifest import Utterance, require_speaker_disjoint_splits, require_suffix, shared_speakers, write_manifest

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Prepared:
    """A manifest that was written, what is in it, and everything that is wrong with the corpus. warnings: whole sentences."""

    manifest: Path
    counts: list[SplitCounts]
    problems: list[Problem]
    warnings: list[str]

    @property
    def problems_file(self) -> Path:
        """The complete list of problems, a table of tab-separated columns; there only if there are some."""
        return _problems_file(self.manifest)


def prepare(
    name: str,
    folder: Path,
    out: Path,
    *,
    validation_speakers: Collection[str] = (),
    test_speakers: Collection[str] = (),
    check_audio: bool = True,
    overwrite: bool = False,
) -> Prepared:
    """Write the manifest `out` (.csv or .jsonl) of the corpus `name`, one of CORPORA, in `folder`.

    Speakers are named as in the corpus (`13`) or in full (`ravdess_13`). check_audio: decode every file to its end; without it only
    headers are read. Raises TrainingError for an unknown corpus, layout or speaker, a speaker in two splits where the corpus does not
    say so itself, an `out` that exists already, and a corpus in which nothing is usable.
    """
    if name not in CORPORA:
        raise TrainingError(f"{name!r} is no corpus known here; use one of {', '.join(CORPORA)}")
    _refuse_out(name, folder, out, overwrite)
    found = CORPORA[name].read(folder.resolve())
    utterances = assign_splits(found.utterances, name, validation_speakers, test_speakers)
    warnings = _split_warnings(utterances, CORPORA[name].defines_splits)
    sounds = hear_all([utterance.path for utterance in utterances], check_audio)
    usable = [utterance for utterance in utterances if sounds[utterance.path].problem is None]
    problems = _problems(found.problems, sounds)
    if not usable:
        raise TrainingError(f"nothing in {folder} is usable as {name}: {_in_short(problems)}; is it the folder of that corpus?")
    write_manifest(out.parent.resolve() / out.name, usable)
    _write_problems(out, problems)
    counts = count(usable, sounds)
    write_speakers(out, counts)
    return Prepared(out, counts, problems, warnings)


def assign_splits(
    utterances: Sequence[Utterance], name: str, validation_speakers: Collection[str], test_speakers: Collection[str]
) -> list[Utterance]:
    """Give every utterance without a split one: `validation` or `test` if its speaker is named for it, else `train`.

    Raises TrainingError for a speaker who is not there or named for both, and for naming any where the corpus has splits already.
    """
    if (validation_speakers or test_speakers) and any(utterance.split for utterance in utterances):
        raise TrainingError(f"{name} has splits of its own; leave out --validation-speakers and --test-speakers")
    speakers = {utterance.speaker for utterance in utterances}
    validation, test = (_full_names(name, speakers, named) for named in (validation_speakers, test_speakers))
    if validation & test:
        raise TrainingError(f"{', '.join(sorted(validation & test))} cannot be in validation and in test; name every speaker once")
    split_of = {**dict.fromkeys(validation, "validation"), **dict.fromkeys(test, "test")}
    return [replace(u, split=u.split or split_of.get(u.speaker, "train")) for u in utterances]


def render(prepared: Prepared) -> str:
    """What was written and what is wrong, as text of at most 140 columns but for long paths."""
    lines = [
        f"Wrote {prepared.manifest}.",
        "",
        *to_lines(prepared.counts),
        "",
        f"Counts of every speaker: {speakers_file(prepared.manifest)}",
    ]
    lines += [f"WARNING: {warning}" for warning in prepared.warnings]
    for kept, title in ((False, "Left out"), (True, "Kept, but")):
        lines += _problem_lines(title, [problem for problem in prepared.problems if problem.kept is kept], prepared.manifest)
    if prepared.problems:
        lines += ["", f"All {len(prepared.problems)} problems: {prepared.problems_file}"]
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `corpus prepare`."""
    parser.set_defaults(run=run)
    parser.add_argument("name", choices=list(CORPORA), help="which corpus; generic: a manifest that exists already")
    parser.add_argument("folder", type=Path, help="where it lies, as its authors publish it; generic: also the manifest itself")
    parser.add_argument("--out", type=Path, help="the manifest to write, .csv or .jsonl (default: FOLDER/manifest.csv; generic: none)")
    parser.add_argument("--validation-speakers", type=_speakers, default=(), metavar="A,B", help="speakers for the split validation")
    parser.add_argument("--test-speakers", type=_speakers, default=(), metavar="A,B", help="speakers for the split test; others train")
    parser.add_argument("--no-check-audio", dest="check_audio", action="store_false", help="read headers only; decode nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace a manifest that is there already")


def run(options: argparse.Namespace) -> None:
    """Prepare what the options name and print what came of it. Raises TrainingError as `prepare` does."""
    if options.out is None and options.name == "generic":
        raise TrainingError("generic reads a manifest and writes another one; say where with --out")
    prepared = prepare(
        options.name,
        options.folder,
        options.out or options.folder / "manifest.csv",
        validation_speakers=options.validation_speakers,
        test_speakers=options.test_speakers,
        check_audio=options.check_audio,
        overwrite=options.overwrite,
    )
    print(render(prepared))


def _refuse_out(name: str, folder: Path, out: Path, overwrite: bool) -> None:
    """Everything about `out` that can be refused before hours of decoding."""
    require_suffix(out)
    if not folder.exists():
        raise TrainingError(f"{folder} is not there; name the folder of the corpus")
    if name == "generic" and out.resolve() == generic_manifest(folder).resolve():
        raise TrainingError(f"{out} is the manifest that is read; name another --out")
    if out.exists() and not overwrite:
        raise TrainingError(f"{out} exists already; name another --out, or replace it with --overwrite")


def _split_warnings(utterances: Sequence[Utterance], defined: bool) -> list[str]:
    """A corpus's own splits are kept as they are, since others' results are on them; ours must be disjoint."""
    if not defined:
        require_speaker_disjoint_splits(utterances)
        return []
    shared = shared_speakers(utterances)
    some = "; ".join(f"{speaker} in {' and '.join(splits)}" for speaker, splits in list(shared.items())[:_SHOWN])
    return [f"{len(shared)} speakers stand in more than one of the corpus's own splits: {some}"] if shared else []


def _problems(found: Sequence[Problem], sounds: Mapping[Path, Sound]) -> list[Problem]:
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
