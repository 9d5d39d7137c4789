"""Commands about what the monitor does by itself: list its jobs, do one now, switch one on or off, and what came of them."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.errors import EmosllmError, NotRunning
from monitor.commands.settings import settings_of

if TYPE_CHECKING:
    from monitor.config import Config

schedule = typer.Typer(no_args_is_help=True)

_PATIENCE_S, _POLL_S, _BEGINS_S = 20.0, 0.2, 2.0

_Name = Annotated[str, typer.Argument(metavar="JOB", help="summaries, backup, retention or retrain.")]
_Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@schedule.command("list")
def list_jobs(context: typer.Context, as_json: _Json = False) -> None:
    """Every job: when it comes next, and what came of it last."""
    from monitor.jobs.telling import table

    config = settings_of(context)
    jobs, running = _jobs(config)
    if as_json:
        print(json.dumps({"running": running, "zone": str(config.timeline.zone_info()), "jobs": jobs}, indent=2))
    else:
        print("\n".join(table(jobs, config.timeline.zone_info(), running)))


@schedule.command()
def history(
    context: typer.Context,
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="Only this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many runs at most, newest first.")] = 20,
    as_json: _Json = False,
) -> None:
    """What was done by itself, for which day, how long it took, and what came of it; with --json all details."""
    from monitor.jobs.state import run_json
    from monitor.jobs.telling import last_words
    from monitor.store.reader import TimelineReader

    settings = settings_of(context).timeline
    if job is not None:
        _known(job)
    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        runs = reader.job_runs(limit, job)
    if as_json:
        print(json.dumps([{**(run_json(run) or {}), "details": dict(run.details)} for run in runs], indent=2))
        return
    for run in runs:
        print(f"{run.job:<9}  for {run.day}  {last_words(run_json(run), settings.zone_info())}" + (f": {run.reason}" if run.reason else ""))
    if not runs:
        print("nothing was done yet")


@schedule.command()
def run(context: typer.Context, job: _Name, as_json: _Json = False) -> None:
    """Do a job now: in the running monitor, or here where none runs. Exit status 1 when it fails."""
    from monitor.jobs.telling import run_words

    config = settings_of(context)
    _known(job)
    try:
        done = _run_there(config, job)
    except NotRunning:
        done = _run_here(config, job)
    if done is None:
        print(json.dumps({"job": job, "outcome": None}) if as_json else f"{job} goes on in the running monitor; see `schedule list`")
        return
    print(json.dumps(done, indent=2) if as_json else run_words(done))
    if done["outcome"] == "failed":
        raise typer.Exit(1)


@schedule.command()
def enable(context: typer.Context, job: _Name, as_json: _Json = False) -> None:
    """Let a job come by itself again."""
    config = settings_of(context)
    _switch(config, job, True)
    at = getattr(config.schedule, job)
    if as_json:
        print(json.dumps({"job": job, "enabled": True, "time": at}))
    else:
        print(f"{job} comes daily at {at}" if at else f'{job} is switched on, but [schedule] {job} in the settings is "": never')


@schedule.command()
def disable(context: typer.Context, job: _Name, as_json: _Json = False) -> None:
    """Let a job come no more, until `enable`; `run` does it all the same."""
    _switch(settings_of(context), job, False)
    print(json.dumps({"job": job, "enabled": False}) if as_json else f"{job} does not come by itself any more")


def _jobs(config: "Config") -> tuple[list[dict[str, Any]], bool]:
    """How the jobs stand, and whether a monitor runs."""
    from monitor.control import ask
    from monitor.jobs.state import states_without_monitor

    try:
        return ask(config.timeline.database_path(), "jobs")["jobs"], True
    except NotRunning:
        return [state.as_json() for state in states_without_monitor(config, datetime.now(UTC))], False


def _run_there(config: "Config", job: str) -> Mapping[str, Any] | None:
    """Its run, in the running monitor; None when it goes on for longer. Raises NotRunning."""
    from monitor.control import ask

    database = config.timeline.database_path()

    def look() -> dict[str, Any]:
        return next(one for one in ask(database, "jobs")["jobs"] if one["job"] == job)

    before = look()
    ask(database, "run-job", name=job)
    began_at = time.monotonic()
    while time.monotonic() < began_at + _PATIENCE_S:
        time.sleep(_POLL_S)
        found = look()
        if found["last"] != before["last"]:
            last: Mapping[str, Any] = found["last"]
            return last
        if found["waits"] and not found["running_since"] and time.monotonic() > began_at + _BEGINS_S:
            raise EmosllmError(f"not now: {found['waits']}")
    return None


def _run_here(config: "Config", job: str) -> Mapping[str, Any]:
    from monitor.jobs.making import runner_without_monitor
    from monitor.jobs.state import run_json

    with runner_without_monitor(config) as runner:
        done = run_json(runner.do_now(job))
        if done is None:
            raise EmosllmError(f"not now: {runner.waits(job)}")
        return done


def _switch(config: "Config", job: str, on: bool) -> None:
    from monitor.control import ask
    from monitor.jobs.switches import Switches

    _known(job)
    try:
        ask(config.timeline.database_path(), "switch-job", name=job, on=on)
    except NotRunning:
        Switches(config.timeline.database_path()).switch(job, on)


def _known(job: str) -> None:
    from monitor.jobs.state import WORDS

    if job not in WORDS:
        raise EmosllmError(f"there is no job {job!r}; there are {', '.join(WORDS)}")
