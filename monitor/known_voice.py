"""What the monitor knows of the person's voice, for the bundle in use: shown, and learned anew. Imports nothing heavy to show it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from model.errors import EmosllmError, NotRunning, VoiceError
from model.manifest import find_bundle, read_manifest
from monitor.config import Config
from monitor.control import ask
from monitor.look import in_use_of
from monitor.store.reader import TimelineReader
from monitor.voice_text import amount, voice_json, voice_words

_NO_USE = "the model in use hears every voice alike: it learns nothing of yours"
_NOTHING = "nothing is known of your voice yet: it is learned from what a running monitor hears through a microphone"


def states(config: Config) -> list[dict[str, Any]] | None:
    """Of each microphone, as `voice_json` tells it, the last heard first; None where the model has no use for that.

    Raises BundleError, TimelineError and StoreKeyError.
    """
    space = read_manifest(find_bundle(in_use_of(config))).voice_space
    if space is None:
        return None
    with TimelineReader.open(config.timeline.database_path(), config.timeline.keys()) as reader:
        return [voice_json(one) for one in reader.voice_references() if one.voice_space == space]


def lines(known: Sequence[dict[str, Any]] | None, zone: ZoneInfo) -> list[str]:
    """The same in words."""
    if not known:
        return [_NO_USE if known is None else _NOTHING]
    told = []
    for voice in known:
        begun = datetime.fromisoformat(voice["begun_at"]).astimezone(zone)
        told += [
            str(voice["microphone"]),
            f"  {voice_words(voice, zone)}",
            f"  learned from {amount(voice)}, from {begun.day} {begun:%B %Y} on",
        ]
    return told


def renew(config: Config, microphone: str | None) -> list[str]:
    """Erase what is known of the voice, through one microphone or all, so that it is learned anew; returns which.

    A running monitor goes on. Raises VoiceError where there is nothing to renew, BundleError, TimelineError and StoreKeyError.
    """
    from monitor.store.voice_learning import let_go

    known = [str(voice["microphone"]) for voice in states(config) or ()]
    if not known:
        raise VoiceError(lines(states(config), config.timeline.zone_info())[0])
    if microphone is not None and microphone not in known:
        raise VoiceError(f"nothing is known of your voice through {microphone!r}; it is through {', '.join(known)}")
    space = read_manifest(find_bundle(in_use_of(config))).voice_space
    assert space is not None, "something is known"
    renewed = let_go(config.timeline.database_path(), config.timeline.keys(), space, microphone)
    tell_monitor(config)
    return renewed


def tell_monitor(config: Config) -> str:
    """Have a running monitor let go of what it holds of the voice; returns why it still does, empty where it does not.

    It notices by itself when it judges the next segment.
    """
    try:
        ask(config.timeline.database_path(), "voice-changed")
    except NotRunning:
        return ""
    except EmosllmError as error:
        return str(error)
    return ""
