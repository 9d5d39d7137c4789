"""What is known of the voice of the person, as text, and learning it anew. Imports nothing heavy to show it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from model.bundle_format import find_bundle, read_bundle_manifest
from model.errors import EmosllmError, NotRunning, VoiceError
from monitor.analysis.formatting import format_duration, format_segments
from monitor.bundles.registry import BundleRegistry
from monitor.config import Config
from monitor.control import send_command
from monitor.storage.reader import TimelineReader
from monitor.storage.records import MIN_REFERENCE_DAYS, MIN_REFERENCE_SEGMENTS, MIN_REFERENCE_SPEECH_S, VoiceReference

_NEEDS = {"days": MIN_REFERENCE_DAYS, "segments": MIN_REFERENCE_SEGMENTS, "speech_s": MIN_REFERENCE_SPEECH_S}


def voice_json(reference: VoiceReference | None) -> dict[str, Any]:
    """In JSON's types; None: nothing is known yet. Moments are in ISO 8601 UTC; `needs` is what a reference is made of at least."""
    if reference is None:
        nothing = {"state": "learning", "microphone": None, "version": None, "begun_at": None, "known_since": None}
        return {**nothing, "segments": 0, "speech_s": 0.0, "days": 0, "enough": False, "needs": _NEEDS}
    return {
        "state": "known" if reference.frozen else "learning",
        "microphone": reference.microphone,
        "version": reference.version,
        "begun_at": reference.begun_at.isoformat(timespec="seconds"),
        "known_since": reference.last_at.isoformat(timespec="seconds") if reference.frozen else None,
        "segments": reference.segments,
        "speech_s": round(reference.speech_s, 1),
        "days": reference.days,
        "enough": reference.is_enough,
        "needs": _NEEDS,
    }


def format_voice(voice: Mapping[str, Any], zone: ZoneInfo) -> str:
    """A sentence about a reference, as `voice_json` gives it, without its full stop and without its microphone."""
    missing = _format_missing(voice)
    if voice["state"] == "known":
        since = datetime.fromisoformat(voice["known_since"]).astimezone(zone)
        known = f"knows your voice since {since.day} {since:%B %Y}"
        return f"{known}, from {_format_basis(voice)}; it should be {missing}, but some was erased" if missing else known
    learned = f": {_format_basis(voice)}" if voice["segments"] else ""
    return f"still learning your voice{learned}; needs {missing}"


def format_speech_amount(voice: Mapping[str, Any]) -> str:
    """How much speech a reference is made of, such as "34 min of speech in 150 pieces on 3 days"."""
    return f"{format_duration(voice['speech_s'])} of speech in {format_segments(voice['segments'])} on {_format_days(voice['days'])}"


def _format_basis(voice: Mapping[str, Any]) -> str:
    return f"{format_duration(voice['speech_s'])} of speech on {_format_days(voice['days'])}"


def _format_missing(voice: Mapping[str, Any]) -> str:
    """Of what a reference needs, that of which there is not enough."""
    needs = voice["needs"]
    words = {
        "days": f"{needs['days']} days with a minute of speech",
        "segments": format_segments(needs["segments"]),
        "speech_s": f"{format_duration(needs['speech_s'])} of speech",
    }
    short = [text for name, text in words.items() if voice[name] < needs[name]]
    return " and ".join(filter(None, (", ".join(short[:-1]), *short[-1:])))


def _format_days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"


_NOT_USED_TEXT = "the model in use hears every voice alike: it learns nothing of yours"
_NOT_KNOWN_TEXT = "nothing is known of your voice yet: it is learned from what a running monitor hears through a microphone"


def voice_states(config: Config) -> list[dict[str, Any]] | None:
    """Of each microphone, as `voice_json` tells it, the last heard first; None where the model has no use for that.

    Raises BundleError, TimelineError and StoreKeyError.
    """
    space = read_bundle_manifest(find_bundle(BundleRegistry.of(config).active())).voice_space
    if space is None:
        return None
    with TimelineReader.open(config.timeline.database_path(), config.timeline.keys()) as reader:
        return [voice_json(one) for one in reader.voice_references() if one.voice_space == space]


def voice_lines(known: Sequence[dict[str, Any]] | None, zone: ZoneInfo) -> list[str]:
    """The same in words."""
    if not known:
        return [_NOT_USED_TEXT if known is None else _NOT_KNOWN_TEXT]
    told = []
    for voice in known:
        begun = datetime.fromisoformat(voice["begun_at"]).astimezone(zone)
        told += [
            str(voice["microphone"]),
            f"  {format_voice(voice, zone)}",
            f"  learned from {format_speech_amount(voice)}, from {begun.day} {begun:%B %Y} on",
        ]
    return told


def renew_voice_reference(config: Config, microphone: str | None) -> list[str]:
    """Erase what is known of the voice, through one microphone or all, so that it is learned anew; returns which.

    A running monitor goes on. Raises VoiceError where there is nothing to renew, BundleError, TimelineError and StoreKeyError.
    """
    from monitor.storage.voice_reference import erase_voice_references

    known = [str(voice["microphone"]) for voice in voice_states(config) or ()]
    if not known:
        raise VoiceError(voice_lines(voice_states(config), config.timeline.zone_info())[0])
    if microphone is not None and microphone not in known:
        raise VoiceError(f"nothing is known of your voice through {microphone!r}; it is through {', '.join(known)}")
    space = read_bundle_manifest(find_bundle(BundleRegistry.of(config).active())).voice_space
    assert space is not None, "something is known"
    renewed = erase_voice_references(config.timeline.database_path(), config.timeline.keys(), space, microphone)
    tell_daemon_voice_changed(config)
    return renewed


def tell_daemon_voice_changed(config: Config) -> str:
    """Have a running monitor let go of what it holds of the voice; returns why it still does, empty where it does not.

    It notices by itself when it judges the next segment.
    """
    try:
        send_command(config.timeline.database_path(), "voice-changed")
    except NotRunning:
        return ""
    except EmosllmError as error:
        return str(error)
    return ""
