"""`python -m bench.studies.faults [--quick] [FAULT ...]`: what is lost when a monitor or its disk fails, as a Markdown table.

Monitor and engine are killed with SIGKILL at random moments while audio is piped in; disk faults are in disks.py.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psutil

from bench.studies import disks
from bench.studies.fault_harness import (
    SETTINGS,
    EndlessSpeech,
    FaultOutcome,
    SpeechPipe,
    compare_stored,
    database_path,
    median_and_longest,
    temporary_home,
)
from monitor.storage.records import SegmentRecord, SegmentState
from tests.support.commands import Running, configure, stored, worker_of
from tests.support.storage import raw

_FIRST = datetime(2025, 1, 1, 9, tzinfo=UTC)  # a day for each run: a moment is heard once
_PACE = 20.0
_WITHIN_S = 5.0
_AT_WORK_WITHIN_S = 1.0


class _PredictionWatch:
    """Sees every judgement that is stored, and whether one is ever made again or taken back."""

    def __init__(self) -> None:
        self._judged_at: dict[int, datetime | None] = {}
        self.doubled = 0

    def look(self, entries: list[SegmentRecord]) -> None:
        now = {entry.id: entry.judged_at for entry in entries}
        self.doubled += sum(judged_at is not None and now.get(entry) != judged_at for entry, judged_at in self._judged_at.items())
        self._judged_at |= now


def monitor_kills(times: int, judging: int) -> FaultOutcome:
    """`judging` of the kills come while answers are stored, the others within five seconds of the start."""
    rng, speech, watch = random.Random(times), EndlessSpeech(), _PredictionWatch()
    pipes: list[tuple[datetime, int]] = []
    listening_s: list[float] = []
    children: list[psutil.Process] = []
    with temporary_home() as folder:
        configure(folder, **SETTINGS)
        for number in range(times):
            anchor = _FIRST + timedelta(days=number)
            # Evenly in between, so that what waits does not fill the spool's room in memory, which would stop the sound.
            at_work = (number + 1) * judging // times > number * judging // times
            with SpeechPipe(speech, _PACE) as pipe:
                running = _start(folder, anchor, pipe)
                began = time.monotonic()
                kill_at = began + rng.uniform(0.0, _WITHIN_S)
                while not (heard := "listening to" in running.output) and (at_work or time.monotonic() < kill_at):
                    time.sleep(0.005)
                if heard:
                    listening_s.append(time.monotonic() - began)
                if at_work:
                    _wait_for_answers(folder, running, rng)
                else:
                    time.sleep(max(0.0, kill_at - time.monotonic()))
                children += psutil.Process(running.process.pid).children()
                running.process.kill()
                running.process.wait()
                pipes.append((anchor, pipe.taken))
            watch.look(_entries(folder))
        # One more start judges what is left.
        with SpeechPipe(speech, _PACE) as pipe:
            last = _start(folder, _FIRST + timedelta(days=times), pipe)
            last.until(lambda: "listening to" in last.output)
            time.sleep(1.0)
            pipe.end()
            assert last.process.wait(300) == 0, last.output
        entries = _entries(folder)
        watch.look(entries)
        _, alive = psutil.wait_procs(children, 10)
        assert not alive, f"judging processes outlive their monitor: {alive}"
        _check_settled(folder, entries)
        by_day = {anchor: [e for e in entries if anchor <= e.start_at < anchor + timedelta(days=1)] for anchor, _ in pipes}
        runs = [compare_stored(speech, anchor, taken, by_day[anchor], folder) for anchor, taken in pipes]
    return FaultOutcome(
        f"kill -9 of the monitor: {judging} times while answers were stored, else within {_WITHIN_S:.0f} s of its start",
        times,
        closed=sum(run.closed for run in runs),
        lost=sum(run.lost for run in runs),
        doubled=watch.doubled + sum(run.invented for run in runs),
        wrong_s=sum(run.wrong_s for run in runs),
        back=f"{median_and_longest(listening_s)} from the next start",
    )


def engine_kills(times: int) -> FaultOutcome:
    """One monitor, whose engine is killed again and again while there is more to judge than it can."""
    rng, speech, watch = random.Random(times), EndlessSpeech(), _PredictionWatch()
    judging_s: list[float] = []
    with temporary_home() as folder, SpeechPipe(speech, 100.0) as pipe:
        configure(folder, **SETTINGS)
        running = _start(folder, _FIRST, pipe)
        for number in range(times):
            running.until(lambda number=number: running.output.count("engine ready") > number)  # type: ignore[misc]
            time.sleep(rng.uniform(0.0, _AT_WORK_WITHIN_S))
            entries = _entries(folder)
            watch.look(entries)
            before = _judged(entries)
            worker_of(running).kill()
            killed = time.monotonic()
            running.until(lambda number=number: running.output.count("engine ready") > number + 1)  # type: ignore[misc]
            running.until(lambda before=before: _judged(_entries(folder)) > before)  # type: ignore[misc]
            judging_s.append(time.monotonic() - killed)
        pipe.end()
        assert running.process.wait(600) == 0, running.output
        entries = _entries(folder)
        watch.look(entries)
        _check_settled(folder, entries)
        run = compare_stored(speech, _FIRST, pipe.taken, entries, folder, ended=True)
    return FaultOutcome(
        "kill -9 of the engine while it worked",
        times,
        closed=run.closed,
        lost=run.lost,
        doubled=watch.doubled + run.invented,
        wrong_s=run.wrong_s,
        back=f"never stopped; judged again after {median_and_longest(judging_s)}",
    )


def _start(folder: Path, anchor: datetime, pipe: SpeechPipe) -> Running:
    return Running(folder, "--source", "-", "--at", anchor.isoformat(timespec="seconds"), stdin=pipe.outlet)


def _entries(folder: Path) -> list[SegmentRecord]:
    return stored(folder)[0] if database_path(folder).exists() else []


def _judged(entries: list[SegmentRecord]) -> int:
    return sum(entry.state is SegmentState.JUDGED for entry in entries)


def _wait_for_answers(folder: Path, running: Running, rng: random.Random) -> None:
    """Until a random share of what waits at the engine's start is answered, and a little longer."""
    running.until(lambda: "engine ready" in running.output)
    entries = _entries(folder)
    wanted = _judged(entries) + rng.randrange(1, max(2, len(entries) - _judged(entries)))
    running.until(lambda: _judged(_entries(folder)) >= wanted)
    time.sleep(rng.uniform(0.0, 0.1))


def _check_settled(folder: Path, entries: list[SegmentRecord]) -> None:
    """At the end nothing waits, no sound is left, no moment is told twice and the database is whole. Raises AssertionError."""
    assert {entry.state for entry in entries} == {SegmentState.JUDGED}, "something was not judged"
    assert all(left.end_at <= right.start_at for left, right in pairwise(entries)), "two segments for one moment"
    with closing(raw(database_path(folder))) as connection:
        (left,) = connection.execute("SELECT count(*) FROM sound").fetchone()
        assert not left, f"the sound of {left} segments is still there"
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        assert verdict == "ok", verdict
        bad_pages = connection.execute("PRAGMA cipher_integrity_check").fetchall()
        assert not bad_pages, f"{len(bad_pages)} pages cannot be decrypted"


_HEAD = [
    "| what was done | times | segments closed | lost | doubled | seconds of coverage wrong | listening again |",
    "|---|---|---|---|---|---|---|",
]

# Each is told whether it is to be quick.
FAULTS: dict[str, Callable[[bool], FaultOutcome]] = {
    "monitor-kills": lambda quick: monitor_kills(6, 1) if quick else monitor_kills(100, 20),
    "engine-kills": lambda quick: engine_kills(1 if quick else 20),
    "full-disk": lambda _quick: disks.full_disk(),
    "locked": lambda _quick: disks.locked(),
    "read-only-start": lambda _quick: disks.read_only_at_the_start(),
    "read-only-running": lambda _quick: disks.read_only_while_it_runs(),
    "damaged": lambda quick: disks.damaged(3 if quick else 12),
}
_QUICK = ("monitor-kills", "engine-kills", "read-only-start", "damaged")


def run(names: Sequence[str] = _QUICK, quick: bool = True) -> list[str]:
    """Markdown lines. Raises AssertionError where a monitor does what it never may, beyond what the table counts."""
    return ["## Faults", "", *_HEAD, *(FAULTS[name](quick).row() for name in names)]


def main() -> None:
    """Print the table, each line as it is known."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies.faults", description=__doc__)
    parser.add_argument("fault", nargs="*", metavar="FAULT", help=f"{', '.join(FAULTS)}; default: all, with --quick {', '.join(_QUICK)}")
    parser.add_argument("--quick", action="store_true", help="fewer kills")
    asked = parser.parse_args()
    if unknown := set(asked.fault) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(unknown)}")
    print("\n".join(_HEAD), flush=True)
    for name in asked.fault or (_QUICK if asked.quick else FAULTS):
        print(FAULTS[name](asked.quick).row(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
