"""How well the monitor knows the person's voice, as JSON and in words, wherever that is shown. Knows no database."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from monitor.day.wording import pieces, span
from monitor.store.voice_reference import ENOUGH_DAYS, ENOUGH_SEGMENTS, ENOUGH_SPEECH_S, VoiceReference

_NEEDS = {"days": ENOUGH_DAYS, "segments": ENOUGH_SEGMENTS, "speech_s": ENOUGH_SPEECH_S}


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


def voice_words(voice: Mapping[str, Any], zone: ZoneInfo) -> str:
    """A sentence about a reference, as `voice_json` gives it, without its full stop and without its microphone."""
    missing = _missing(voice)
    if voice["state"] == "known":
        since = datetime.fromisoformat(voice["known_since"]).astimezone(zone)
        known = f"knows your voice since {since.day} {since:%B %Y}"
        return f"{known}, from {_made_of(voice)}; it should be {missing}, but some was erased" if missing else known
    learned = f": {_made_of(voice)}" if voice["segments"] else ""
    return f"still learning your voice{learned}; needs {missing}"


def amount(voice: Mapping[str, Any]) -> str:
    """How much speech a reference is made of, such as "34 min of speech in 150 pieces on 3 days"."""
    return f"{span(voice['speech_s'])} of speech in {pieces(voice['segments'])} on {_days(voice['days'])}"


def _made_of(voice: Mapping[str, Any]) -> str:
    return f"{span(voice['speech_s'])} of speech on {_days(voice['days'])}"


def _missing(voice: Mapping[str, Any]) -> str:
    """Of what a reference needs, that of which there is not enough."""
    needs = voice["needs"]
    words = {
        "days": f"{needs['days']} days with a minute of speech",
        "segments": pieces(needs["segments"]),
        "speech_s": f"{span(needs['speech_s'])} of speech",
    }
    short = [text for name, text in words.items() if voice[name] < needs[name]]
    return " and ".join(filter(None, (", ".join(short[:-1]), *short[-1:])))


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"
