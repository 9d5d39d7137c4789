"""Deletes a time range, or everything, from every file of the monitor, and reports what went and what stayed (`forget`).

A note of what is being deleted, times only, lies beside the timeline from before the first change until after the last, and every step
can be repeated. So whatever interrupts a deletion, the next `forget` or `start` finishes it. A range is deleted while a daemon runs: it is
told first, and writes nothing of that range from then on. Everything is deleted only while no daemon runs.

A deleted range leaves no row behind that says so: it looks like time in which no monitor ran.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from model.errors import BundleError, EmosllmError, NotRunning, StoreKeyError, TimelineError, TimelineInUse
from monitor.analysis.days import EARLIEST, LATEST, TimeRange
from monitor.bundles.library import BundleLibrary, activate_bundle
from monitor.bundles.registry import (
    RETIRED_REASON,
    BundleRegistry,
    bundle_folders,
    is_retired_name,
    learned_from_any,
    retire_bundle,
)
from monitor.clinic import sharing as clinic
from monitor.config import PACKAGED_BUNDLE, Config, TimelineConfig
from monitor.control import send_command
from monitor.fileio import SQLITE_SIDE_FILES, DatabaseLock, fsync_path, locked, partial_path, write_private_atomic
from monitor.paths import bundles_dir, bundles_file, daemon_log, engine_log, start_log, state_dir, training_log
from monitor.personalization.training_process import TrainingFolder
from monitor.personalization.voice import tell_daemon_voice_changed as tell_of_voice
from monitor.storage.backup import Backups
from monitor.storage.cipher import salt_of
from monitor.storage.erasure import ErasureCounts, erase_range, find_in_range, is_damaged
from monitor.storage.snapshot import PARTIAL_SUFFIX, remove_database

_WAIT_S, _RETRY_S = 10.0, 0.2


@dataclass(frozen=True, slots=True)
class DeletionPreview:
    """What would go. found: from the timeline itself. copies: backups and older timelines that hold something of it, or are beyond
    reading. unreachable: those whose key is not there, with the reason. bundles: folders of those that learned from it. half_trained:
    whether a training that was interrupted, or goes on, did. shared: whether a clinic has a copy."""

    found: ErasureCounts
    copies: tuple[Path, ...]
    damaged: tuple[Path, ...]
    unreachable: tuple[str, ...]
    bundles: tuple[Path, ...]
    half_trained: bool = False
    shared: bool = False

    def __bool__(self) -> bool:
        return bool(self.found or self.copies or self.damaged or self.bundles or self.half_trained or self.shared)


@dataclass(slots=True)
class DeletionReceipt:
    """What went. found: from the timeline. rewritten, removed: files, by their names. retired: bundles. keys: places whose key was
    destroyed. instead: version of the bundle that is in use now because the one that was is retired. clinic: where a clinic's copy was
    removed. left: what is still there and why."""

    found: ErasureCounts = field(default_factory=ErasureCounts)
    rewritten: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    instead: str = ""
    clinic: str = ""
    left: list[str] = field(default_factory=list)


def preview_deletion(config: Config, time_range: TimeRange) -> DeletionPreview:
    """Look through every file for what lies in a stretch; changes nothing. Raises TimelineError when the timeline cannot be read."""
    database, keys = config.timeline.database_path(), config.timeline.keys()
    found, numbers = ErasureCounts(), set[int]()
    if salt_of(database) is not None:
        seen = find_in_range(database, keys.find(database), time_range.start, time_range.end)
        found, numbers = seen.found, set(seen.numbers)
    copies, damaged, unreachable = [], [], []
    for copy in _copies(config.timeline):
        try:
            seen = find_in_range(copy, keys.find(database, copy=copy), time_range.start, time_range.end)
        except StoreKeyError:
            unreachable.append(f"{copy}: its key is not there; remove it, or bring the key back and forget again")
        except TimelineError as error:
            if not is_damaged(error):
                raise
            damaged.append(copy)
        else:
            numbers.update(seen.numbers)
            if seen.found:
                copies.append(copy)
    bundles = [folder for folder in _bundle_folders(config) if learned_from_any(folder, numbers, time_range.start, time_range.end)]
    half_trained = TrainingFolder.of_this_machine().learned_from(numbers, time_range.start, time_range.end)
    shared = clinic.is_shared(config)
    return DeletionPreview(found, tuple(copies), tuple(damaged), tuple(unreachable), tuple(bundles), half_trained, shared)


def delete_range(config: Config, time_range: TimeRange) -> DeletionReceipt:
    """Erase a stretch that lies in the past. Raises TimelineError, and then it is not finished, but will be."""
    with locked(Backups.of(config.timeline).folder):
        _DeletionNote(config.timeline).write(time_range)
        with _no_writers(config.timeline, time_range):
            return _delete_range(config, time_range)


def delete_everything(config: Config) -> DeletionReceipt:
    """Erase the timeline, its backups and its keys, what learned from it, and the logs. Raises TimelineInUse while a monitor runs."""
    with (
        locked(Backups.of(config.timeline).folder),
        DatabaseLock(config.timeline.database_path(), "nothing, to forget everything"),
    ):
        _DeletionNote(config.timeline).write(None)
        return _delete_everything(config)


def deletion_interrupted(settings: TimelineConfig) -> bool:
    """Whether something was to be forgotten and is not altogether yet."""
    return _DeletionNote(settings).is_there


def finish_deletion(config: Config, holds_lock: bool = False) -> DeletionReceipt | None:
    """Finish what was interrupted; None when nothing was. holds_lock: the caller holds the database's lock. Raises TimelineError."""
    note = _DeletionNote(config.timeline)
    if not note.is_there:
        return None
    time_range = note.read()
    if not holds_lock:
        return delete_everything(config) if time_range is None else delete_range(config, time_range)
    with locked(Backups.of(config.timeline).folder):
        return _delete_everything(config) if time_range is None else _delete_range(config, time_range)


def _delete_range(config: Config, time_range: TimeRange) -> DeletionReceipt:
    """Every step can be done again, and the note goes last."""
    receipt = DeletionReceipt()
    database, keys = config.timeline.database_path(), config.timeline.keys()
    _remove_partial_copies(config)
    plan = preview_deletion(config, time_range)
    # First, while the numbers of the segments can still be had.
    _retire_bundles(plan.bundles, receipt)
    if plan.half_trained:
        _discard_training(receipt)
    _replace_retired_bundle(config, receipt)
    for copy in plan.copies:
        try:
            erase_range(copy, keys.find(database, copy=copy), time_range.start, time_range.end)
            receipt.rewritten.append(copy.name)
        except TimelineError as error:
            if not is_damaged(error):
                raise
            _discard_copy(copy, receipt)
    for copy in plan.damaged:
        _discard_copy(copy, receipt)
    if salt_of(database) is not None:
        receipt.found = erase_range(database, keys.find(database), time_range.start, time_range.end).found
        if receipt.found.voice_hours and (why := tell_of_voice(config)):
            receipt.left.append(f"what a running monitor has in memory of your voice, until it judges the next speech ({why})")
    receipt.left += plan.unreachable
    if plan.shared:
        # Not before it is gone here, or a running monitor might send it once more.
        clinic.request_erasure(config, time_range)
        _delete_at_clinic(config, receipt)
    _DeletionNote(config.timeline).remove()
    return receipt


def _delete_everything(config: Config) -> DeletionReceipt:
    receipt = DeletionReceipt()
    files = config.timeline.files()
    if shared := clinic.is_shared(config):
        clinic.request_erasure(config, None)
    # The keys first: from then on nobody can read what is still there, and what the disk keeps of it.
    gone, left = config.timeline.keys().destroy(files.database)
    receipt.keys += [str(place) for place in gone]
    receipt.left += [f"the key in {place}: only you can remove it there" for place in left]
    _retire_bundles([folder for folder in _bundle_folders(config) if learned_from_any(folder, (), EARLIEST, LATEST)], receipt)
    if TrainingFolder.of_this_machine().learned_from((), EARLIEST, LATEST):
        _discard_training(receipt)
    _remove_partial_copies(config)
    logs = [file for log in (daemon_log(), engine_log(), start_log(), training_log()) for file in sorted(state_dir().glob(f"{log.name}*"))]
    registry = (bundles_file(), partial_path(bundles_file()))
    for file in (*_copies(config.timeline), files.database, files.jobs, files.disabled_jobs, *logs, *registry):
        if file.exists():
            receipt.removed.append(file.name)
        remove_database(file)
    if shared:
        _delete_at_clinic(config, receipt)
    _DeletionNote(config.timeline).remove()
    return receipt


def _delete_at_clinic(config: Config, receipt: DeletionReceipt) -> None:
    told = clinic.send_erasures(config)
    receipt.clinic = told.gone
    receipt.left += [told.left] if told.left else []


def _retire_bundles(bundles: Sequence[Path], receipt: DeletionReceipt) -> None:
    for folder in bundles:
        retire_bundle(folder)
        receipt.retired.append(folder.name)


def _discard_training(receipt: DeletionReceipt) -> None:
    """One that goes on notices that what it learns from is gone, and is thrown away."""
    TrainingFolder.of_this_machine().clear()
    receipt.removed.append("a half-trained model, which learned from it")


def _replace_retired_bundle(config: Config, receipt: DeletionReceipt) -> None:
    """Where the bundle in use is retired, use the one before instead; a running monitor leaves it at once."""
    registry = BundleRegistry.of(config)
    if not is_retired_name(registry.chosen()):
        if receipt.retired:
            _tell_daemon(config, receipt)
        return
    why = ""
    for name in dict.fromkeys((registry.previous() or PACKAGED_BUNDLE, PACKAGED_BUNDLE)):
        try:
            receipt.instead = activate_bundle(config, name, RETIRED_REASON, back=True)
            return
        except EmosllmError as error:
            why = str(error)
    receipt.left.append(_still_in_memory(why))


def _tell_daemon(config: Config, receipt: DeletionReceipt) -> None:
    """Where the engine could not use the one in use, a running monitor may have gone back to one that is retired now."""
    try:
        send_command(config.timeline.database_path(), "use-bundle", name=BundleRegistry.of(config).active())
    except NotRunning:
        return
    except EmosllmError as error:
        receipt.left.append(_still_in_memory(str(error)))


def _still_in_memory(why: str) -> str:
    return f"what a running monitor has in memory of a retired model: stop it and start it again ({why})"


def _discard_copy(copy: Path, receipt: DeletionReceipt) -> None:
    """A damaged copy cannot be put back, and may hold anything."""
    remove_database(copy)
    receipt.removed.append(f"{copy.name}, which was damaged")


@contextlib.contextmanager
def _no_writers(settings: TimelineConfig, time_range: TimeRange) -> Iterator[None]:
    """Nobody writes anything of the stretch while the block runs: no monitor does, or the one that does has been told."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(DatabaseLock(settings.database_path(), "nothing, to forget"))
            except TimelineInUse as in_use:
                try:
                    send_command(settings.database_path(), "forget", start=time_range.start.isoformat(), end=time_range.end.isoformat())
                except NotRunning:
                    # It is just starting or ending, or is no monitor.
                    if time.monotonic() > deadline:
                        raise in_use from None
                    time.sleep(_RETRY_S)
                    continue
            yield
            return


def _copies(settings: TimelineConfig) -> list[Path]:
    """Every other file that holds what the timeline held once: its backups, and what was put aside when one was restored."""
    asides = [path for path in settings.files().asides() if not path.name.endswith(SQLITE_SIDE_FILES)]
    return [*(backup.path for backup in Backups.of(settings).found()), *asides]


def _remove_partial_copies(config: Config) -> None:
    """Remove copies, and bundles, that were half made when something was killed. Raises TimelineError."""
    Backups.of(config.timeline).sweep()
    database = config.timeline.database_path()
    remove_database(database.with_name(database.name + PARTIAL_SUFFIX))
    try:
        BundleLibrary.of(config).sweep()
    except BundleError as error:
        raise TimelineError(f"half made bundles may hold what is to be forgotten: {error}") from error


def _bundle_folders(config: Config) -> list[Path]:
    return list(bundle_folders(BundleRegistry.of(config).names(), bundles_dir()))


class _DeletionNote:
    """The note beside the timeline of what is being forgotten: a stretch, or everything."""

    def __init__(self, settings: TimelineConfig) -> None:
        self._path = settings.files().deletion_note

    @property
    def is_there(self) -> bool:
        return self._path.exists()

    def write(self, time_range: TimeRange | None) -> None:
        """Raises TimelineError when that is not possible: then nothing has changed."""
        told = None if time_range is None else [time_range.start.isoformat(), time_range.end.isoformat()]
        try:
            write_private_atomic(self._path, json.dumps({"forget": told}))
        except OSError as error:
            raise TimelineError(f"cannot write {self._path}: {error.strerror}; nothing was erased") from error

    def read(self) -> TimeRange | None:
        """None for everything. Raises TimelineError."""
        try:
            told = json.loads(self._path.read_text(encoding="utf-8"))["forget"]
            return None if told is None else TimeRange(*(datetime.fromisoformat(text).astimezone(UTC) for text in told))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TimelineError(
                f"{self._path} should say what was being forgotten, and cannot be read ({error}); remove it and forget again"
            ) from error

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        fsync_path(self._path.parent)


DELETE_EVERYTHING_TEXT = (
    "Everything will be forgotten: the timeline with all that was heard and said, its backups, the key that opens them,",
    "what models learned from it, the logs, and what a clinic was sent. Your settings stay.",
)
_OUT_OF_REACH = (
    "exports, reports and pictures that you saved, printed or gave to somebody",
    "backups and snapshots of this disk that other programs make",
)


def preview_lines(survey: DeletionPreview, time_range: TimeRange, zone: ZoneInfo) -> list[str]:
    """What will go."""
    lines = [f"To be forgotten, {format_range(time_range, zone)}:", *_indented(_count_lines(survey.found))]
    if survey.copies:
        lines.append(f"  from {_plural(len(survey.copies), 'backup')}, written anew without it: {_file_names(survey.copies)}")
    if survey.damaged:
        lines.append(f"  {_plural(len(survey.damaged), 'damaged backup')}, altogether: {_file_names(survey.damaged)}")
    if survey.bundles:
        lines.append(f"  {_plural(len(survey.bundles), 'model')} that learned from it: {_file_names(survey.bundles)}")
    if survey.half_trained:
        lines.append("  a half-trained model that learns from it")
    if survey.shared:
        lines.append("  the clinic's copy of it, whichever of your machines sent that")
    return lines


def receipt_lines(receipt: DeletionReceipt, what: str, remote: bool) -> list[str]:
    """What went, and what may be elsewhere. remote: whether a server on another machine judged the voice."""
    lines = [f"Forgotten, {what}:", *_indented(_count_lines(receipt.found))]
    told = {
        "written anew without it": receipt.rewritten,
        "removed": receipt.removed,
        "retired, as it learned from it": receipt.retired,
        "in use instead": [receipt.instead] if receipt.instead else [],
        "destroyed, the key in": receipt.keys,
        "removed at the clinic, with what other machines of yours sent of it": [receipt.clinic] if receipt.clinic else [],
    }
    lines += [f"  {word}: {', '.join(names)}" for word, names in told.items() if names]
    if len(lines) == 1:
        lines = [f"There was nothing to forget, {what}."]
    elif not receipt.left:
        lines.append("Nothing of it is left in the monitor's own files.")
    if receipt.left:
        lines += ["Not reached:", *_indented(receipt.left)]
    return [*lines, "Out of reach, where you have it:", *_indented(_out_of_reach_lines(receipt, remote))]


def format_range(time_range: TimeRange, zone: ZoneInfo) -> str:
    """From when until when, on the local clock."""
    begin = "" if time_range.start == EARLIEST else f"from {_format_local(time_range.start, zone)} "
    return f"{begin}to {_format_local(time_range.end, zone)} ({zone})"


def _count_lines(found: ErasureCounts) -> list[str]:
    speech = _plural(found.segments, "piece") + " of speech" if found.segments else ""
    more = [f"{number} with {what}" for number, what in ((found.transcripts, "words"), (found.sounds, "sound")) if number]
    said = [
        _plural(number, word)
        for number, word in ((found.corrections, "correction"), (found.checkins, "check-in"), (found.prompts, "question to check in"))
        if number
    ]
    account = f"the account of {_plural(found.coverage, 'stretch', 'es')} of time: heard, paused and the like" if found.coverage else ""
    days = (
        f"{_plural(found.summaries, 'summary of a day', '', 'summaries of days')}, made anew when next looked at" if found.summaries else ""
    )
    voice = (
        f"what the monitor learned of your voice in {_plural(found.voice_hours, 'hour')}, the whole of each" if found.voice_hours else ""
    )
    return [line for line in (", ".join(filter(None, (speech, *more))), ", ".join(said), account, days, voice) if line]


def _out_of_reach_lines(receipt: DeletionReceipt, remote: bool) -> list[str]:
    disk = "what the disk keeps of erased files until it writes there again, SSDs above all; it is encrypted"
    if receipt.keys:
        disk += ", and the key is gone, but for copies that you exported"
    else:
        disk += ": `emosllm-monitor key rotate` takes its key away, too"
    learned = ["models that you exported with `bundles export`"] if receipt.retired else []
    return [*_OUT_OF_REACH, disk, *learned, *(["the memory and logs of the vLLM server that judged it"] if remote else [])]


def _format_local(moment: datetime, zone: ZoneInfo) -> str:
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M}"


def _plural(number: int, word: str, plural: str = "s", words: str = "") -> str:
    return f"{number} {word if number == 1 else words or word + plural}"


def _file_names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]
