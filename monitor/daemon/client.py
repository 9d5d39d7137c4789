"""What other terminals do with a daemon: start it in the background, stop it, and show its status as text.

Talks to it through its control socket only.
"""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from model.errors import EmosllmError, NotRunning
from monitor.config import LARGE_PAGES_ENVIRONMENT
from monitor.control import Reply, send_command
from monitor.fileio import make_private_file
from monitor.personalization.voice import format_voice
from monitor.scheduler.job_status import job_summary_lines

_START_TIMEOUT_S = 30.0
_POLL_S = 0.1


def start_in_background(database: Path, arguments: Sequence[str], output: Path) -> Reply:
    """Start `emosllm-monitor` with `arguments` in a session of its own; returns its status once it is there.

    output: file that gets what it prints, which holds no emotion. Raises EmosllmError when one runs already, and with what it printed
    when it ends at once.
    """
    with contextlib.suppress(NotRunning):
        running = send_command(database, "status")
        raise EmosllmError(f"the monitor runs already: process {running['pid']}, {running['state']}; `emosllm-monitor stop` ends it")
    make_private_file(output)
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "monitor.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**LARGE_PAGES_ENVIRONMENT, **os.environ},
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EmosllmError(output.read_text(encoding="utf-8", errors="replace").strip().removeprefix("error: "))
        try:
            status = send_command(database, "status")
        except NotRunning:
            time.sleep(_POLL_S)
            continue
        # Opening the source takes a moment; what is wrong with a microphone is told as a problem, a recording that is none ends it all.
        opening = status["state"] == "starting" or (status["state"] == "no microphone" and not status["problems"])
        if status["pid"] == process.pid and not opening:
            return status
        time.sleep(_POLL_S)
    process.terminate()
    raise EmosllmError(f"the monitor was not there after {_START_TIMEOUT_S:.0f} s; see {output}")


def stop_daemon(database: Path, patience_s: float) -> bool:
    """End the running monitor in good order and wait for it; False when it still judges what waited after `patience_s`.

    Raises NotRunning.
    """
    send_command(database, "stop")
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            send_command(database, "status")
        except NotRunning:
            return True
        time.sleep(_POLL_S)
    return False


def format_status(answer: Mapping[str, Any], zone: ZoneInfo) -> str:
    """answer: as `DaemonStatus.as_json` makes it, with the pid."""
    return "\n".join(_status_lines(answer, zone))


def _status_lines(answer: Mapping[str, Any], zone: ZoneInfo) -> Iterator[str]:
    state = str(answer["state"])
    if answer["paused_until"]:
        state += f" until {_format_local(answer['paused_until'], zone)}"
    microphone = "open" if state in ("listening", "muted") else "closed"
    yield f"State       {state} (the microphone is {microphone})"
    yield f"Source      {answer['source']}"
    yield f"Since       {_format_local(answer['since'], zone)}, process {answer['pid']}"
    if state == "listening":
        yield f"Level       {answer['level_dbfs']:.0f} dBFS, {'speech' if answer['speaking'] else 'no speech'} at the moment"
    counts = [f"{answer['segments']} since the start", f"{answer['judged']} analysed", f"{answer['waiting']} waiting"]
    if answer["unjudged"]:
        counts.append(f"{answer['unjudged']} given up")
    yield f"Segments    {', '.join(counts)}"
    yield f"Engine      {_format_engine(answer, zone)}"
    if answer.get("transcriber"):
        yield f"Transcriber {answer['transcriber']}"
    if answer.get("next_bundle"):
        yield f"Bundle      {answer['bundle'] or 'none yet'}, changing to {answer['next_bundle']}"
    if voice := answer.get("voice"):
        yield f"Voice       {format_voice(voice, zone)}"
    if jobs := list(job_summary_lines(answer["jobs"], zone)):
        yield f"Jobs        {'; '.join(jobs)}"
    if sharing := answer.get("sharing"):
        yield f"Clinic      {sharing['clinic']}: {_format_sharing(sharing, zone)}"
    for problem in answer["problems"]:
        yield f"Problem     {problem}"


def _format_sharing(sharing: Mapping[str, Any], zone: ZoneInfo) -> str:
    if not sharing["waiting"]:
        return "everything that is shared has arrived"
    return f"changes that wait to be sent: {sharing['waiting']}, since {_format_local(sharing['waiting_since'], zone)}"


def _format_engine(answer: Mapping[str, Any], zone: ZoneInfo) -> str:
    if answer["away_since"]:
        away = f"the server does not answer since {_format_local(answer['away_since'], zone)}; {answer['waiting']} segments wait"
        return f"{away} ({answer['engine_detail']})"
    return f"{answer['engine']}: {answer['engine_detail']}"


def _format_local(moment: str, zone: ZoneInfo) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(zone):%Y-%m-%d %H:%M}"
