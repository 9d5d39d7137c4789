"""The system: microphones, doctor, the systemd service and scheduled jobs."""

import json
import shutil
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.errors import EmosllmError, NotRunning
from monitor.cli.settings import settings_of

if TYPE_CHECKING:
    from monitor.config import Config


_WIDEST = 110

service = typer.Typer(no_args_is_help=True)


def devices() -> None:
    """List microphones. Set one with [audio] device."""
    from monitor.audio.microphone import list_devices

    found = list_devices()
    for device in found:
        print(f"{'*' if device.is_default else ' '} {device.index:3d}  {device.name}  ({device.channels} ch, {device.rate_hz} Hz)")
    print("* default" if found else "no microphone found", file=sys.stderr)


def doctor(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Skip starting the engine, which takes up to a minute.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: a list of objects with verdict, what and detail.")] = False,
) -> None:
    """Check the installation, and look for unexpected network connections.

    Checks microphone, engine, timeline, permissions, disk, backups, clinic, clock, service and network. Exits with 1 if a check
    fails.
    """
    from monitor.doctor.checks import run_checks
    from monitor.doctor.findings import Verdict, findings_json, format_counts, worst_verdict

    findings = []
    columns = min(shutil.get_terminal_size().columns, _WIDEST)
    for finding in run_checks(context.obj, quick):
        findings.append(finding)
        if not as_json:
            print(finding.text(columns), flush=True)
    print(findings_json(findings) if as_json else f"\n{format_counts(findings)}")
    if worst_verdict(findings) is Verdict.FAIL:
        raise typer.Exit(1)


@service.command("install")
def service_install(
    context: typer.Context,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start now, or at the next login.")] = True,
) -> None:
    """Install, enable and start the systemd unit.

    The unit names this program and the settings file in use. An existing unit is replaced.
    """
    from monitor.daemon.systemd import install_service

    print("\n".join(install_service(context.obj, start)))


@service.command("uninstall")
def service_uninstall() -> None:
    """Stop and remove the service. Your data is kept."""
    from monitor.daemon.systemd import uninstall_service

    print("\n".join(uninstall_service()))


@service.command("status")
def service_status() -> None:
    """Show whether the service is installed, enabled and active.

    Exits with 0 if it is active, otherwise with 3.
    """
    from monitor.daemon.systemd import service_state

    found = service_state()
    print("\n".join(found.lines()))
    if not found.active:
        raise typer.Exit(3)


schedule = typer.Typer(no_args_is_help=True)

_PATIENCE_S, _POLL_S, _BEGINS_S = 20.0, 0.2, 2.0

_Name = Annotated[str, typer.Argument(metavar="JOB", help="Job: summaries, backup, retention or retrain.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@schedule.command("list")
def list_jobs(context: typer.Context, as_json: _Json = False) -> None:
    """List scheduled jobs with their next run and latest result."""
    from monitor.scheduler.job_status import format_job_table

    config = settings_of(context)
    jobs, running = _jobs(config)
    if as_json:
        print(json.dumps({"running": running, "zone": str(config.timeline.zone_info()), "jobs": jobs}, indent=2))
    else:
        print("\n".join(format_job_table(jobs, config.timeline.zone_info(), running)))


@schedule.command()
def history(
    context: typer.Context,
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="Only runs of this job.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of runs, newest first.")] = 20,
    as_json: _Json = False,
) -> None:
    """Show past runs: day, duration and result. --json includes all details."""
    from monitor.scheduler.job_status import format_last_run, job_run_json
    from monitor.storage.reader import TimelineReader

    settings = settings_of(context).timeline
    if job is not None:
        _check_job_name(job)
    with TimelineReader.open(settings.database_path(), settings.keys()) as reader:
        runs = reader.job_runs(limit, job)
    if as_json:
        print(json.dumps([{**(job_run_json(run) or {}), "details": dict(run.details)} for run in runs], indent=2))
        return
    for run in runs:
        print(
            f"{run.job:<9}  for {run.day}  {format_last_run(job_run_json(run), settings.zone_info())}"
            + (f": {run.reason}" if run.reason else "")
        )
    if not runs:
        print("no runs yet")


@schedule.command()
def run(context: typer.Context, job: _Name, as_json: _Json = False) -> None:
    """Run a job now, in the running monitor if there is one. Exits with 1 if it fails."""
    from monitor.scheduler.job_status import format_job_run

    config = settings_of(context)
    _check_job_name(job)
    try:
        done = _run_in_monitor(config, job)
    except NotRunning:
        done = _run_in_process(config, job)
    if done is None:
        print(json.dumps({"job": job, "outcome": None}) if as_json else f"{job} continues in the running monitor; see `schedule list`")
        return
    print(json.dumps(done, indent=2) if as_json else format_job_run(done))
    if done["outcome"] == "failed":
        raise typer.Exit(1)


@schedule.command()
def enable(context: typer.Context, job: _Name, as_json: _Json = False) -> None:
    """Enable a scheduled job."""
    config = settings_of(context)
    _switch(config, job, True)
    at = getattr(config.schedule, job)
    if as_json:
        print(json.dumps({"job": job, "enabled": True, "time": at}))
    else:
        print(f"{job} runs daily at {at}" if at else f'{job} is enabled, but [schedule] {job} is "" in the settings, so it never runs')


@schedule.command()
def disable(context: typer.Context, job: _Name, as_json: _Json = False) -> None:
    """Disable a scheduled job. `run` still works."""
    _switch(settings_of(context), job, False)
    print(json.dumps({"job": job, "enabled": False}) if as_json else f"{job} is disabled")


def _jobs(config: "Config") -> tuple[list[dict[str, Any]], bool]:
    """How the jobs stand, and whether a monitor runs."""
    from monitor.control import send_command
    from monitor.scheduler.job_status import offline_job_states

    try:
        return send_command(config.timeline.database_path(), "jobs")["jobs"], True
    except NotRunning:
        return [state.as_json() for state in offline_job_states(config, datetime.now(UTC))], False


def _run_in_monitor(config: "Config", job: str) -> Mapping[str, Any] | None:
    """Its run, in the running monitor; None when it goes on for longer. Raises NotRunning."""
    from monitor.control import send_command

    database = config.timeline.database_path()

    def look() -> dict[str, Any]:
        return next(one for one in send_command(database, "jobs")["jobs"] if one["job"] == job)

    before = look()
    send_command(database, "run-job", name=job)
    began_at = time.monotonic()
    while time.monotonic() < began_at + _PATIENCE_S:
        time.sleep(_POLL_S)
        found = look()
        if found["last"] != before["last"]:
            last: Mapping[str, Any] = found["last"]
            return last
        if found["waits"] and not found["running_since"] and time.monotonic() > began_at + _BEGINS_S:
            raise EmosllmError(f"skipped: {found['waits']}")
    return None


def _run_in_process(config: "Config", job: str) -> Mapping[str, Any]:
    from monitor.daemon.jobs import offline_job_runner
    from monitor.scheduler.job_status import job_run_json

    with offline_job_runner(config) as runner:
        done = job_run_json(runner.run_now(job))
        if done is None:
            raise EmosllmError(f"skipped: {runner.waits(job)}")
        return done


def _switch(config: "Config", job: str, on: bool) -> None:
    from monitor.control import send_command
    from monitor.scheduler.jobs import DisabledJobs

    _check_job_name(job)
    try:
        send_command(config.timeline.database_path(), "switch-job", name=job, on=on)
    except NotRunning:
        DisabledJobs(config.timeline.database_path()).switch(job, on)


def _check_job_name(job: str) -> None:
    from monitor.scheduler.job_status import JOB_DESCRIPTIONS

    if job not in JOB_DESCRIPTIONS:
        raise EmosllmError(f"unknown job {job!r}; choose from {', '.join(JOB_DESCRIPTIONS)}")
