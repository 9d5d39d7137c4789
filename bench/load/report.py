"""The result of a load test as Markdown: what became of every segment, latencies, costs, and monitors that were served worse."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WARM_UP_S = 30.0
# After a server is back, what waited is worked off.
_CATCHING_UP_S = 30.0


@dataclass(frozen=True, slots=True)
class Event:
    """What was done to a server, and until when it did not answer; in seconds since the epoch."""

    what: str
    at: float
    back: float


@dataclass(frozen=True, slots=True)
class ClinicRows:
    """What the clinic has: of each subject rows, different segments and judged ones; and bytes of the table with its indexes."""

    segments: Mapping[str, tuple[int, int, int]]
    size: int


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of processor time from `begin` to `end` (seconds since the epoch), by what took them."""

    begin: float
    end: float
    cpu_s: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LoadResult:
    """start, bothered: in seconds since the epoch. told: as MonitorReport, in JSON's types. answers: to hostile
    clients, by kind.
    """

    start: float
    seconds: float
    told: Sequence[Mapping[str, Any]]
    events: Sequence[Event]
    bothered: tuple[float, float]
    answers: Mapping[str, Mapping[str, int]]
    arrived: ClinicRows
    costs: Costs


@dataclass(frozen=True, slots=True)
class _PredictedSegment:
    monitor: str
    closed: float
    took_s: float


def report_lines(found: LoadResult) -> list[str]:
    """All tables."""
    judged = [
        _PredictedSegment(one["name"], at, one["judged"][entry] - at)
        for one in found.told
        for entry, at in one["closed"].items()
        if entry in one["judged"]
    ]
    about = f"{len(found.told)} monitors, {found.seconds / 60:.0f} minutes"
    tables = (_counts(found), _latencies(found, judged), _costs(found, judged), _hostile_clients(found))
    return [f"## {about}, one vLLM server, one PostgreSQL", *(line for table in tables for line in ("", *table))]


def _counts(found: LoadResult) -> list[str]:
    closed = sum(len(one["closed"]) for one in found.told)
    judged = sum(len(one["judged"]) for one in found.told)
    rows, different, arrived = (sum(counts[place] for counts in found.arrived.segments.values()) for place in range(3))
    per_person = {one["name"]: len(one["closed"]) for one in found.told}
    unequal = sum(found.arrived.segments.get(name, (0, 0, 0)) != (count, count, count) for name, count in per_person.items())
    table = [
        ("segments closed", closed),
        ("judged in their own timelines", judged),
        ("lost", closed - judged),
        ("judged twice", sum(one["twice"] for one in found.told)),
        ("refused for good", sum(len(one["refused"]) for one in found.told)),
        ("rows in the clinic", rows),
        ("of them judged", arrived),
        ("of them double", rows - different),
        ("people of whom the clinic has not exactly what was closed", unequal),
        ("most that one monitor had waiting", max(one["waiting_most"] for one in found.told)),
        ("bytes a segment in the clinic, with indexes", round(found.arrived.size / max(1, rows))),
    ]
    events = [f"- {event.what} after {event.at - found.start:.0f} s; back {event.back - event.at:.0f} s later" for event in found.events]
    return ["| what became of them | |", "|---|---|", *(f"| {name} | {value} |" for name, value in table), "", *events]


def _latencies(found: LoadResult, judged: Iterable[_PredictedSegment]) -> list[str]:
    groups: dict[str, list[_PredictedSegment]] = {
        "undisturbed": [],
        "vLLM down or catching up": [],
        "PostgreSQL down": [],
        "bothered by strangers": [],
    }
    for one in judged:
        if (group := _group(found, one.closed)) is not None:
            groups[group].append(one)
    calm = _median(groups["undisturbed"])
    head = "| closing of a segment to its row | segments | median s | p95 s | most s | median, ratio | medians of single monitors, s |"
    table = [head, "|---|---|---|---|---|---|---|"]
    for name, group in groups.items():
        if len(group) > 1:
            times = sorted(one.took_s for one in group)
            p95 = statistics.quantiles(times, n=20)[-1]
            own = [_median([one for one in group if one.monitor == monitor]) for monitor in {one.monitor for one in group}]
            cells = (f"{_median(group):.3f}", f"{p95:.3f}", f"{times[-1]:.1f}", f"{_median(group) / calm:.2f}")
            table.append(f"| {name} | {len(group)} | {' | '.join(cells)} | {min(own):.3f} to {max(own):.3f} |")
    return table


def _costs(found: LoadResult, judged: Iterable[_PredictedSegment]) -> list[str]:
    count = sum(found.costs.begin <= one.closed < found.costs.end for one in judged)
    passed_s = found.costs.end - found.costs.begin
    table = [f"| undisturbed, {count / passed_s:.1f} segments a second | CPU ms a segment | of one core |", "|---|---|---|"]
    return table + [f"| {name} | {1000 * cpu_s / count:.1f} | {cpu_s / passed_s:.1%} |" for name, cpu_s in found.costs.cpu_s.items()]


def _median(group: Sequence[_PredictedSegment]) -> float:
    return statistics.median(one.took_s for one in group)


def _group(found: LoadResult, closed: float) -> str | None:
    """In which part of the test a segment was closed; None for the warming up."""
    if closed < found.start + WARM_UP_S:
        return None
    for event in found.events:
        down = event.what.startswith("vLLM")
        if event.at - 1 <= closed < event.back + (_CATCHING_UP_S if down else 0):
            return "vLLM down or catching up" if down else "PostgreSQL down"
    return "bothered by strangers" if found.bothered[0] <= closed < found.bothered[1] else "undisturbed"


def _hostile_clients(found: LoadResult) -> list[str]:
    table = ["| strangers | what they were answered |", "|---|---|"]
    for kind, answers in found.answers.items():
        told = "; ".join(f"{answer} ({count} times)" for answer, count in sorted(answers.items()))
        table.append(f"| {kind} | {told} |")
    return table
