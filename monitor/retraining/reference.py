"""What a training learns of the person's voice beside their labels: the sums of the reference that their speech is judged against."""

from monitor.config import TimelineConfig
from monitor.store.reader import TimelineReader, sensible
from monitor.store.voice_learning import sum_up


def current_reference_sums(timeline: TimelineConfig, voice_space: str | None) -> bytes | None:
    """`VoiceSums` as bytes, for bundles of a voice space; None where nothing is known, or the bundle has no use for it.

    Of several microphones that through which most speech was heard. Raises TimelineError, StoreKeyError.
    """
    with TimelineReader.open(timeline.database_path(), timeline.keys()) as reader:
        known = [one for one in reader.voice_references() if one.voice_space == voice_space]
        most = max(known, key=lambda one: one.speech_s, default=None)
        with sensible(timeline.database_path()):
            return None if most is None else sum_up(reader.voice_hours(most.version))
