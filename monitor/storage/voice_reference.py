"""Writes what is learned of the person's voice, in the transaction that stores a prediction: sums per hour, until they are enough.

Hours are the smallest unit that can be erased again: what of an hour belongs to one segment cannot be told apart. An hour is that of UTC
in which a segment begins, and of one local day. `current_reference_sums` reads the sums for a training.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from zoneinfo import ZoneInfo

from sqlmodel import Session, col, delete, select

from monitor.storage.keys import KeyStore, TimelineSettings
from monitor.storage.reader import VOICE_REFERENCE_QUERY, TimelineReader, find_timeline_key, reject_malformed_rows, voice_reference_from_row
from monitor.storage.records import InferenceResult, VoiceContribution, VoiceReference, VoiceReferenceSums, new_reference_version
from monitor.storage.schema import SegmentRow, VoiceHourRow, VoiceReferenceRow, create_database_engine, write_transaction

_logger = logging.getLogger(__name__)

_BUSY_TIMEOUT_S = 5.0


def learn_voice(session: Session, judged: Iterable[tuple[SegmentRow, InferenceResult]]) -> None:
    """Add segments that were just judged to what is known of the voice, and note in each which reference it was heard against.

    A segment of no microphone is a recording: nobody knows whose. A reference that is frozen stays as it is.
    """
    for row, result in judged:
        heard = result.voice_contribution
        if heard is None:
            continue
        row.voice_version = heard.version
        if row.microphone is None:
            continue
        reference = _find_row(session, heard.voice_space, row.microphone) or _begin_reference(session, heard.voice_space, row.microphone)
        if reference.frozen:
            continue
        # Heard against nothing is what a reference that holds nothing yet amounts to.
        row.voice_version = heard.version or reference.version
        try:
            _add_contribution(session, reference, row, heard)
        except ValueError as error:
            _logger.error("a segment is left out of the reference of the voice: %s", error)
        else:
            _freeze_if_enough(session, reference)


def reference_version_for(session: Session, voice_space: str, segment_id: int) -> str | None:
    """Which reference a segment is to be heard against, by its microphone; None where nothing is known."""
    row = session.get(SegmentRow, segment_id)
    reference = None if row is None or row.microphone is None else _find_row(session, voice_space, row.microphone)
    return None if reference is None else reference.version


def load_reference_sums(session: Session, version: str) -> VoiceReferenceSums | None:
    """A reference with all its sums as they are now; None where it is gone. Raises ValueError where they make no sense."""
    reference = session.exec(select(VoiceReferenceRow).where(VoiceReferenceRow.version == version)).first()
    if reference is None:
        return None
    hours = select(VoiceHourRow.sums).where(VoiceHourRow.reference_id == reference.id)
    sums = add_up_sums(session.exec(hours.order_by(col(VoiceHourRow.on_date), col(VoiceHourRow.hour_at))).all())
    return None if sums is None else VoiceReferenceSums(reference.voice_space, version, sums)


def find_voice_reference(session: Session, voice_space: str, microphone: str) -> VoiceReference | None:
    """What is known of the voice through a microphone; None where nothing is."""
    reference = _find_row(session, voice_space, microphone)
    return None if reference is None else _describe(session, reference)


def add_up_sums(hours: Iterable[bytes]) -> bytes | None:
    """The sums of hours in one, in the order given, so that the same hours always give the same bits; None for none.

    Raises ValueError for what are no sums, or of different voice spaces.
    """
    # Here and below: who writes no sums does without numpy.
    from model.voice_reference import VoiceSums

    total: VoiceSums | None = None
    for data in hours:
        sums = VoiceSums.from_bytes(data)
        total = sums if total is None else total + sums
    return None if total is None else total.to_bytes()


def erase_voice_references(path: Path, keys: KeyStore, voice_space: str, microphone: str | None) -> list[str]:
    """Erase what is known of the voice, through one microphone or all, also while a monitor runs; learning begins with the next speech.

    Returns the microphones. Raises TimelineError, and StoreKeyError when the key is not there.
    """
    key = find_timeline_key(path, keys)
    if key is None:
        return []
    which = select(VoiceReferenceRow).where(VoiceReferenceRow.voice_space == voice_space).order_by(VoiceReferenceRow.microphone)
    if microphone is not None:
        which = which.where(VoiceReferenceRow.microphone == microphone)
    engine = create_database_engine(path, key, _BUSY_TIMEOUT_S)
    try:
        with write_transaction(path, engine) as session:
            references = session.exec(which).all()
            for reference in references:
                session.exec(delete(VoiceHourRow).where(col(VoiceHourRow.reference_id) == reference.id))
                session.delete(reference)
            return [reference.microphone for reference in references]
    finally:
        engine.dispose()


def _find_row(session: Session, voice_space: str, microphone: str) -> VoiceReferenceRow | None:
    which = select(VoiceReferenceRow).where(VoiceReferenceRow.voice_space == voice_space, VoiceReferenceRow.microphone == microphone)
    return session.exec(which).first()


def _begin_reference(session: Session, voice_space: str, microphone: str) -> VoiceReferenceRow:
    reference = VoiceReferenceRow(version=new_reference_version(), voice_space=voice_space, microphone=microphone, frozen=False)
    session.add(reference)
    session.flush()
    return reference


def _add_contribution(session: Session, reference: VoiceReferenceRow, row: SegmentRow, heard: VoiceContribution) -> None:
    from model.voice_reference import VoiceSums

    assert reference.id is not None
    on_date = row.start_at.astimezone(ZoneInfo(row.zone)).date().isoformat()
    hour_at = row.start_at.replace(minute=0, second=0, microsecond=0)
    hour = session.get(VoiceHourRow, (reference.id, on_date, hour_at))
    if hour is None:
        hour = VoiceHourRow(
            reference_id=reference.id,
            on_date=on_date,
            hour_at=hour_at,
            start_at=row.start_at,
            end_at=row.end_at,
            segments=0.0,
            speech_s=0.0,
            sums=b"",
        )
        sums = heard.sums
    else:
        sums = VoiceSums.from_bytes(hour.sums) + heard.sums
    hour.start_at, hour.end_at = min(hour.start_at, row.start_at), max(hour.end_at, row.end_at)
    hour.segments, hour.speech_s, hour.sums = sums.segments, sums.speech_s, sums.to_bytes()
    session.add(hour)


def _freeze_if_enough(session: Session, reference: VoiceReferenceRow) -> None:
    if _describe(session, reference).is_enough:
        reference.frozen, reference.version = True, new_reference_version()


def _describe(session: Session, reference: VoiceReferenceRow) -> VoiceReference:
    session.flush()
    query = f"{VOICE_REFERENCE_QUERY} HAVING version = :version"
    return voice_reference_from_row(session.connection().exec_driver_sql(query, {"version": reference.version}).one())


def current_reference_sums(timeline: TimelineSettings, voice_space: str | None) -> bytes | None:
    """`VoiceSums` as bytes, for bundles of a voice space; None where nothing is known, or the bundle has no use for it.

    Of several microphones that through which most speech was heard. Raises TimelineError, StoreKeyError.
    """
    with TimelineReader.open(timeline.database_path(), timeline.keys()) as reader:
        known = [one for one in reader.voice_references() if one.voice_space == voice_space]
        most = max(known, key=lambda one: one.speech_s, default=None)
        with reject_malformed_rows(timeline.database_path()):
            return None if most is None else add_up_sums(reader.voice_hours(most.version))
