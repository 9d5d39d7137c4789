"""What `status` prints: the answer of a running monitor in a few plain lines."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from monitor.jobs.telling import summary_lines
from monitor.voice_text import voice_words


def status_text(answer: Mapping[str, Any], zone: ZoneInfo) -> str:
    """answer: as `Status.as_json` makes it, with the pid."""
    return "\n".join(_lines(answer, zone))


def _lines(answer: Mapping[str, Any], zone: ZoneInfo) -> Iterator[str]:
    state = str(answer["state"])
    if answer["paused_until"]:
        state += f" until {_local(answer['paused_until'], zone)}"
    microphone = "open" if state in ("listening", "muted") else "closed"
    yield f"State       {state} (the microphone is {microphone})"
    yield f"Source      {answer['source']}"
    yield f"Since       {_local(answer['since'], zone)}, process {answer['pid']}"
    if state == "listening":
        yield f"Level       {answer['level_dbfs']:.0f} dBFS, {'speech' if answer['speaking'] else 'no speech'} at the moment"
    counts = [f"{answer['segments']} since the start", f"{answer['judged']} judged", f"{answer['waiting']} waiting"]
    if answer["unjudged"]:
        counts.append(f"{answer['unjudged']} given up")
    yield f"Segments    {', '.join(counts)}"
    yield f"Engine      {_engine(answer, zone)}"
    if answer.get("transcriber"):
        yield f"Transcriber {answer['transcriber']}"
    if answer.get("next_bundle"):
        yield f"Bundle      {answer['bundle'] or 'none yet'}, changing to {answer['next_bundle']}"
    if voice := answer.get("voice"):
        yield f"Voice       {voice_words(voice, zone)}"
    if jobs := list(summary_lines(answer["jobs"], zone)):
        yield f"Jobs        {'; '.join(jobs)}"
    if sharing := answer.get("sharing"):
        yield f"Clinic      {sharing['clinic']}: {_waiting(sharing, zone)}"
    for problem in answer["problems"]:
        yield f"Problem     {problem}"


def _waiting(sharing: Mapping[str, Any], zone: ZoneInfo) -> str:
    if not sharing["waiting"]:
        return "everything that is shared has arrived"
    return f"changes that wait to be sent: {sharing['waiting']}, since {_local(sharing['waiting_since'], zone)}"


def _engine(answer: Mapping[str, Any], zone: ZoneInfo) -> str:
    if answer["away_since"]:
        away = f"the server does not answer since {_local(answer['away_since'], zone)}; {answer['waiting']} segments wait"
        return f"{away} ({answer['engine_detail']})"
    return f"{answer['engine']}: {answer['engine_detail']}"


def _local(moment: str, zone: ZoneInfo) -> str:
    return f"{datetime.fromisoformat(moment).astimezone(zone):%Y-%m-%d %H:%M}"
