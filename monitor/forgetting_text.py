"""What a person reads before something is forgotten, and the receipt afterwards. Text only; knows no files."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from monitor.day.stretches import FIRST, Stretch
from monitor.forgetting import Receipt, Survey
from monitor.store.erasure import Found

EVERYTHING = (
    "Everything will be forgotten: the timeline with all that was heard and said, its backups, the key that opens them,",
    "what models learned from it, the logs, and what a clinic was sent. Your settings stay.",
)
_ELSEWHERE = (
    "exports, reports and pictures that you saved, printed or gave to somebody",
    "backups and snapshots of this disk that other programs make",
)


def preview(survey: Survey, stretch: Stretch, zone: ZoneInfo) -> list[str]:
    """What will go."""
    lines = [f"To be forgotten, {span(stretch, zone)}:", *_indented(_counts(survey.found))]
    if survey.copies:
        lines.append(f"  from {_many(len(survey.copies), 'backup')}, written anew without it: {_names(survey.copies)}")
    if survey.damaged:
        lines.append(f"  {_many(len(survey.damaged), 'damaged backup')}, altogether: {_names(survey.damaged)}")
    if survey.bundles:
        lines.append(f"  {_many(len(survey.bundles), 'model')} that learned from it: {_names(survey.bundles)}")
    if survey.half_trained:
        lines.append("  a half-trained model that learns from it")
    if survey.shared:
        lines.append("  the clinic's copy of it, whichever of your machines sent that")
    return lines


def receipt_of(receipt: Receipt, what: str, remote: bool) -> list[str]:
    """What went, and what may be elsewhere. remote: whether a server on another machine judged the voice."""
    lines = [f"Forgotten, {what}:", *_indented(_counts(receipt.found))]
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
    return [*lines, "Out of reach, where you have it:", *_indented(_elsewhere(receipt, remote))]


def span(stretch: Stretch, zone: ZoneInfo) -> str:
    """From when until when, on the local clock."""
    begin = "" if stretch.start == FIRST else f"from {_local(stretch.start, zone)} "
    return f"{begin}to {_local(stretch.end, zone)} ({zone})"


def _counts(found: Found) -> list[str]:
    speech = _many(found.segments, "piece") + " of speech" if found.segments else ""
    more = [f"{number} with {what}" for number, what in ((found.transcripts, "words"), (found.sounds, "sound")) if number]
    said = [
        _many(number, word)
        for number, word in ((found.corrections, "correction"), (found.checkins, "check-in"), (found.prompts, "question to check in"))
        if number
    ]
    account = f"the account of {_many(found.coverage, 'stretch', 'es')} of time: heard, paused and the like" if found.coverage else ""
    days = (
        f"{_many(found.summaries, 'summary of a day', '', 'summaries of days')}, made anew when next looked at" if found.summaries else ""
    )
    voice = f"what the monitor learned of your voice in {_many(found.voice_hours, 'hour')}, the whole of each" if found.voice_hours else ""
    return [line for line in (", ".join(filter(None, (speech, *more))), ", ".join(said), account, days, voice) if line]


def _elsewhere(receipt: Receipt, remote: bool) -> list[str]:
    disk = "what the disk keeps of erased files until it writes there again, SSDs above all; it is encrypted"
    if receipt.keys:
        disk += ", and the key is gone, but for copies that you exported"
    else:
        disk += ": `emosllm-monitor key rotate` takes its key away, too"
    learned = ["models that you exported with `bundles export`"] if receipt.retired else []
    return [*_ELSEWHERE, disk, *learned, *(["the memory and logs of the vLLM server that judged it"] if remote else [])]


def _local(moment: datetime, zone: ZoneInfo) -> str:
    return f"{moment.astimezone(zone):%Y-%m-%d %H:%M}"


def _many(number: int, word: str, plural: str = "s", words: str = "") -> str:
    return f"{number} {word if number == 1 else words or word + plural}"


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]
