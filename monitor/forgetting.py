"""Forgets: erases a stretch of time, or everything, from every file of the monitor, and tells what went and what stayed.

A note of what is being forgotten, times only, lies beside the timeline from before the first change until after the last; every step
can be done again. So whatever interrupts it, the next `forget` or `start` finishes it. A stretch is forgotten while a monitor runs: it
is told first, and writes nothing of that stretch from then on. Everything is forgotten only while none runs.

A forgotten stretch leaves no row behind that says so: it is as unknown as one in which no monitor ran. That somebody erased something,
and when, is theirs to tell.
"""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from model.errors import BundleError, EmosllmError, NotRunning, StoreKeyError, TimelineError, TimelineInUse
from model.manifest import find_bundle
from monitor.config import PACKAGED_BUNDLE, Config, TimelineConfig, bundles_file, state_dir
from monitor.control import ask
from monitor.day.stretches import FIRST, LAST, Stretch
from monitor.jobs.places import plans_path, switches_path
from monitor.judging.bundle_choice import BundleChoice
from monitor.judging.in_use import InUse
from monitor.judging.retirement import WHY, is_retired, known_bundles, learned_from, retire
from monitor.known_voice import tell_monitor as tell_of_voice
from monitor.library import BUNDLES, Library, go_live
from monitor.look import in_use_of
from monitor.retraining.work import Work
from monitor.sharing import forgetting as clinic
from monitor.store.backup import Backups
from monitor.store.cipher import salt_of
from monitor.store.copies import PART, remove
from monitor.store.erasure import Found, erase, is_damage, look
from monitor.store.lock import BESIDE, DatabaseLock, make_private, sync, taking_turns

_LOGS = ("monitor.log*", "engine.log*", "start.log*", "retrain.log*", "bundles.json", "bundles.new")
_PATIENCE_S, _RETRY_S = 10.0, 0.2


@dataclass(frozen=True, slots=True)
class Survey:
    """What would go. found: from the timeline itself. copies: backups and older timelines that hold something of it, or are beyond
    reading. unreachable: those whose key is not there, with the reason. bundles: folders of those that learned from it. half_trained:
    whether a training that was interrupted, or goes on, did. shared: whether a clinic has a copy."""

    found: Found
    copies: tuple[Path, ...]
    damaged: tuple[Path, ...]
    unreachable: tuple[str, ...]
    bundles: tuple[Path, ...]
    half_trained: bool = False
    shared: bool = False

    def __bool__(self) -> bool:
        return bool(self.found or self.copies or self.damaged or self.bundles or self.half_trained or self.shared)


@dataclass(slots=True)
class Receipt:
    """What went. found: from the timeline. rewritten, removed: files, by their names. retired: bundles. keys: places whose key was
    destroyed. instead: version of the bundle that is in use now because the one that was is retired. clinic: where a clinic's copy was
    removed. left: what is still there and why."""

    found: Found = field(default_factory=Found)
    rewritten: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    retired: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    instead: str = ""
    clinic: str = ""
    left: list[str] = field(default_factory=list)


def survey(config: Config, stretch: Stretch) -> Survey:
    """Look through every file for what lies in a stretch; changes nothing. Raises TimelineError when the timeline cannot be read."""
    database, keys = config.timeline.database_path(), config.timeline.keys()
    found, numbers = Found(), set[int]()
    if salt_of(database) is not None:
        seen = look(database, keys.find(database), stretch.start, stretch.end)
        found, numbers = seen.found, set(seen.numbers)
    copies, damaged, unreachable = [], [], []
    for copy in _copies(config.timeline):
        try:
            seen = look(copy, keys.find(database, copy=copy), stretch.start, stretch.end)
        except StoreKeyError:
            unreachable.append(f"{copy}: its key is not there; remove it, or bring the key back and forget again")
        except TimelineError as error:
            if not is_damage(error):
                raise
            damaged.append(copy)
        else:
            numbers.update(seen.numbers)
            if seen.found:
                copies.append(copy)
    bundles = [folder for folder in _bundles(config) if learned_from(folder, numbers, stretch.start, stretch.end)]
    half_trained = Work.of_this_machine().learned_from(numbers, stretch.start, stretch.end)
    shared = clinic.is_shared(config)
    return Survey(found, tuple(copies), tuple(damaged), tuple(unreachable), tuple(bundles), half_trained, shared)


def forget(config: Config, stretch: Stretch) -> Receipt:
    """Erase a stretch that lies in the past. Raises TimelineError, and then it is not finished, but will be."""
    with taking_turns(Backups.of(config.timeline).folder):
        _Note(config.timeline).write(stretch)
        with _nobody_writes(config.timeline, stretch):
            return _forget(config, stretch)


def forget_all(config: Config) -> Receipt:
    """Erase the timeline, its backups and its keys, what learned from it, and the logs. Raises TimelineInUse while a monitor runs."""
    with (
        taking_turns(Backups.of(config.timeline).folder),
        DatabaseLock(config.timeline.database_path(), "nothing, to forget everything"),
    ):
        _Note(config.timeline).write(None)
        return _forget_all(config)


def interrupted(settings: TimelineConfig) -> bool:
    """Whether something was to be forgotten and is not altogether yet."""
    return _Note(settings).is_there


def finish(config: Config, locked: bool = False) -> Receipt | None:
    """Finish what was interrupted; None when nothing was. locked: whether the caller holds the database's lock. Raises TimelineError."""
    note = _Note(config.timeline)
    if not note.is_there:
        return None
    stretch = note.read()
    if not locked:
        return forget_all(config) if stretch is None else forget(config, stretch)
    with taking_turns(Backups.of(config.timeline).folder):
        return _forget_all(config) if stretch is None else _forget(config, stretch)


def _forget(config: Config, stretch: Stretch) -> Receipt:
    """Every step can be done again, and the note goes last."""
    receipt = Receipt()
    database, keys = config.timeline.database_path(), config.timeline.keys()
    _sweep(config)
    plan = survey(config, stretch)
    # First, while the numbers of the segments can still be had.
    _retire(plan.bundles, receipt)
    if plan.half_trained:
        _give_up_training(receipt)
    _leave_retired(config, receipt)
    for copy in plan.copies:
        try:
            erase(copy, keys.find(database, copy=copy), stretch.start, stretch.end)
            receipt.rewritten.append(copy.name)
        except TimelineError as error:
            if not is_damage(error):
                raise
            _give_up(copy, receipt)
    for copy in plan.damaged:
        _give_up(copy, receipt)
    if salt_of(database) is not None:
        receipt.found = erase(database, keys.find(database), stretch.start, stretch.end).found
        if receipt.found.voice_hours and (why := tell_of_voice(config)):
            receipt.left.append(f"what a running monitor has in memory of your voice, until it judges the next speech ({why})")
    receipt.left += plan.unreachable
    if plan.shared:
        # Not before it is gone here, or a running monitor might send it once more.
        clinic.note(config, stretch)
        _tell_clinic(config, receipt)
    _Note(config.timeline).remove()
    return receipt


def _forget_all(config: Config) -> Receipt:
    receipt = Receipt()
    database = config.timeline.database_path()
    if shared := clinic.is_shared(config):
        clinic.note(config, None)
    # The keys first: from then on nobody can read what is still there, and what the disk keeps of it.
    gone, left = config.timeline.keys().destroy(database)
    receipt.keys += [str(place) for place in gone]
    receipt.left += [f"the key in {place}: only you can remove it there" for place in left]
    _retire([folder for folder in _bundles(config) if learned_from(folder, (), FIRST, LAST)], receipt)
    if Work.of_this_machine().learned_from((), FIRST, LAST):
        _give_up_training(receipt)
    _sweep(config)
    logs = [file for pattern in _LOGS for file in sorted(state_dir().glob(pattern))]
    for file in (*_copies(config.timeline), database, plans_path(database), switches_path(database), *logs):
        if file.exists():
            receipt.removed.append(file.name)
        remove(file)
    if shared:
        _tell_clinic(config, receipt)
    _Note(config.timeline).remove()
    return receipt


def _tell_clinic(config: Config, receipt: Receipt) -> None:
    told = clinic.tell(config)
    receipt.clinic = told.gone
    receipt.left += [told.left] if told.left else []


def _retire(bundles: Sequence[Path], receipt: Receipt) -> None:
    for folder in bundles:
        retire(folder)
        receipt.retired.append(folder.name)


def _give_up_training(receipt: Receipt) -> None:
    """One that goes on notices that what it learns from is gone, and is thrown away."""
    Work.of_this_machine().clear()
    receipt.removed.append("a half-trained model, which learned from it")


def _leave_retired(config: Config, receipt: Receipt) -> None:
    """Where the bundle in use is retired, use the one before instead; a running monitor leaves it at once."""
    in_use = InUse(config.engine.bundle, bundles_file())
    if not _is_retired(in_use.current):
        if receipt.retired:
            _tell_monitor(config, receipt)
        return
    why = ""
    for name in dict.fromkeys((in_use.previous() or PACKAGED_BUNDLE, PACKAGED_BUNDLE)):
        try:
            receipt.instead = go_live(config, name, WHY, back=True)
            return
        except EmosllmError as error:
            why = str(error)
    receipt.left.append(_in_memory(why))


def _tell_monitor(config: Config, receipt: Receipt) -> None:
    """Where the engine could not use the one in use, a running monitor may have gone back to one that is retired now."""
    try:
        ask(config.timeline.database_path(), "use-bundle", name=in_use_of(config))
    except NotRunning:
        return
    except EmosllmError as error:
        receipt.left.append(_in_memory(str(error)))


def _in_memory(why: str) -> str:
    return f"what a running monitor has in memory of a retired model: stop it and start it again ({why})"


def _is_retired(name: str) -> bool:
    try:
        return is_retired(find_bundle(name))
    except BundleError:
        return False


def _give_up(copy: Path, receipt: Receipt) -> None:
    """A damaged copy cannot be put back, and may hold anything."""
    remove(copy)
    receipt.removed.append(f"{copy.name}, which was damaged")


@contextlib.contextmanager
def _nobody_writes(settings: TimelineConfig, stretch: Stretch) -> Iterator[None]:
    """Nobody writes anything of the stretch while the block runs: no monitor does, or the one that does has been told."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(DatabaseLock(settings.database_path(), "nothing, to forget"))
            except TimelineInUse as in_use:
                try:
                    ask(settings.database_path(), "forget", start=stretch.start.isoformat(), end=stretch.end.isoformat())
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
    database = settings.database_path()
    aside = [path for path in database.parent.glob(f"{database.name}.aside-*") if not path.name.endswith(BESIDE)]
    return [*(backup.path for backup in Backups.of(settings).found()), *sorted(aside)]


def _sweep(config: Config) -> None:
    """Remove copies, and bundles, that were half made when something was killed. Raises TimelineError."""
    Backups.of(config.timeline).sweep()
    database = config.timeline.database_path()
    remove(database.with_name(database.name + PART))
    try:
        Library.of(config).sweep()
    except BundleError as error:
        raise TimelineError(f"half made bundles may hold what is to be forgotten: {error}") from error


def _bundles(config: Config) -> list[Path]:
    choice, uses = BundleChoice(config.engine.bundle, bundles_file()), InUse(config.engine.bundle, bundles_file()).uses()
    return list(known_bundles((*choice.names, *(use.name for use in uses)), state_dir() / BUNDLES))


class _Note:
    """The note beside the timeline of what is being forgotten: a stretch, or everything."""

    def __init__(self, settings: TimelineConfig) -> None:
        database = settings.database_path()
        self._path = database.with_name(database.name + ".forgetting")

    @property
    def is_there(self) -> bool:
        return self._path.exists()

    def write(self, stretch: Stretch | None) -> None:
        """Raises TimelineError when that is not possible: then nothing has changed."""
        told = None if stretch is None else [stretch.start.isoformat(), stretch.end.isoformat()]
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            make_private(fresh)
            fresh.write_text(json.dumps({"forget": told}), encoding="utf-8")
            sync(fresh)
            fresh.replace(self._path)
            sync(self._path.parent)
        except OSError as error:
            raise TimelineError(f"cannot write {self._path}: {error.strerror}; nothing was erased") from error

    def read(self) -> Stretch | None:
        """None for everything. Raises TimelineError."""
        try:
            told = json.loads(self._path.read_text(encoding="utf-8"))["forget"]
            return None if told is None else Stretch(*(datetime.fromisoformat(text).astimezone(UTC) for text in told))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TimelineError(
                f"{self._path} should say what was being forgotten, and cannot be read ({error}); remove it and forget again"
            ) from error

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
        sync(self._path.parent)
