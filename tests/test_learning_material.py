"""What there is to learn from: exactly what the person said and whose sound is kept, and every other label is counted with a reason."""

import io
import time
from contextlib import closing
from datetime import timedelta
from itertools import count

import numpy as np
import pytest

from model.evidence import Kind, read_evidence
from model.types import Emotion
from monitor.config import Config, RetrainConfig
from monitor.day.stretches import Stretch
from monitor.forgetting import forget
from monitor.retraining import evidence
from monitor.retraining.evidence import Material, Outdated, Piece, gather, refuse_outdated, send
from monitor.store.kept_sound import KeptSound
from monitor.store.timeline import Timeline
from tests.nights import EVENING, KEEPING, PACKAGED, UTC_ZONE, Said, live, sound, words
from tests.stores import keys, raw

SAD, HAPPY, NEUTRAL, CONTEMPT, FEAR = Emotion.SAD, Emotion.HAPPY, Emotion.NEUTRAL, Emotion.CONTEMPT, Emotion.FEAR
SETTINGS = KEEPING.timeline


def gathered(config: Config = KEEPING) -> Material:
    return gather(config, PACKAGED.letters)


def said_of(material: Material) -> list[tuple[int, Emotion, Kind, Emotion, float]]:
    return [(piece.segment, piece.emotion, piece.kind, piece.shown, piece.weight) for piece in material.pieces]


def test_an_empty_timeline_and_one_that_is_not_there_teach_nothing() -> None:
    assert gathered() == Material((), {})
    live([Said(0), Said(1)])
    assert gathered() == Material((), {})


def test_corrections_and_confirmations_that_hold_and_whose_sound_is_kept() -> None:
    numbers = live([Said(0, SAD, NEUTRAL), Said(1, SAD, SAD), Said(2, SAD), Said(3, HAPPY, SAD), Said(4, HAPPY, SAD)])
    with words() as mouth:
        mouth.undo(numbers[3])
        mouth.correct(numbers[4], FEAR)
    assert said_of(gathered()) == [
        (numbers[0], NEUTRAL, Kind.CORRECTION, SAD, 1.0),
        (numbers[1], SAD, Kind.CONFIRMATION, SAD, 1.0),
        (numbers[4], FEAR, Kind.CORRECTION, HAPPY, 1.0),
    ]
    assert not gathered().left_out


def test_what_cannot_be_used_is_counted_with_its_reason() -> None:
    pieces = [
        Said(0, SAD, NEUTRAL),
        Said(1, SAD, NEUTRAL, kept=False),
        Said(2, SAD, NEUTRAL, kept=False),
        Said(3, SAD, CONTEMPT),
        Said(4, None, SAD),
        Said(5, SAD, NEUTRAL, seconds=0.4),
        Said(6, SAD, NEUTRAL, seconds=0.5),
    ]
    numbers = live(pieces)
    material = gathered()
    assert [piece.segment for piece in material.pieces] == [numbers[0], numbers[6]]
    assert material.left_out == {
        evidence.NO_SOUND: 2,
        evidence.CANNOT_ANSWER: 1,
        evidence.NOT_JUDGED: 1,
        evidence.TOO_SHORT: 1,
    }


def test_a_check_in_teaches_its_nearest_speech_only_and_less_than_a_label() -> None:
    minutes = (-31, -20, -8, -4, -3, -2, -1, 25, 40)
    numbers = dict(
        zip(
            minutes,
            live([*(Said(60 + minute, SAD) for minute in minutes), *(Said(300 + n, SAD, SAD) for n in range(9))], [(60, HAPPY)]),
            strict=False,
        )
    )
    weak = [piece for piece in gathered().pieces if piece.kind is Kind.CHECKIN]
    assert [piece.segment for piece in weak] == [numbers[minute] for minute in (-8, -4, -3, -2, -1)]
    assert {(piece.emotion, piece.shown, piece.weight) for piece in weak} == {(HAPPY, SAD, 0.2)}
    assert gathered().count(Kind.CHECKIN) == 5


def test_speech_between_two_check_ins_goes_with_the_nearer_one() -> None:
    numbers = live([Said(12, SAD), Said(22, SAD), *(Said(300 + n, SAD, SAD) for n in range(9))], [(10, HAPPY), (25, FEAR)])
    weak = [piece for piece in gathered().pieces if piece.kind is Kind.CHECKIN]
    assert [(piece.segment, piece.emotion) for piece in weak] == [(numbers[0], HAPPY), (numbers[1], FEAR)]


def test_what_the_person_says_of_a_piece_itself_stands_above_a_check_in() -> None:
    live([Said(10, SAD, NEUTRAL), Said(11, SAD, SAD)], [(10, HAPPY)])
    material = gathered()
    assert {piece.kind for piece in material.pieces} == {Kind.CORRECTION, Kind.CONFIRMATION}
    assert material.left_out == {evidence.NO_SPEECH_NEAR: 1}


def test_check_ins_that_cannot_be_answered_or_have_no_kept_speech_near_them_are_counted() -> None:
    live([Said(10, SAD, SAD), Said(100, SAD, kept=False)], [(10, CONTEMPT), (100, HAPPY), (200, HAPPY)])
    assert gathered().left_out == {evidence.CANNOT_ANSWER: 1, evidence.NO_SPEECH_NEAR: 2}


def test_a_weight_of_none_leaves_check_ins_alone() -> None:
    live([Said(10, SAD, SAD), Said(11, SAD)], [(10, HAPPY)])
    config = Config(retrain=RetrainConfig(checkin_weight=0.0))
    assert gathered(config).count(Kind.CHECKIN) == 0
    assert not gathered(config).left_out


def test_weak_labels_never_outnumber_the_others_and_the_newest_stay() -> None:
    minutes = range(0, 240, 40)
    numbers = live([*(Said(minute, SAD) for minute in minutes), Said(280, SAD, SAD), Said(281, SAD, SAD)], [(m, HAPPY) for m in minutes])
    weak = [piece.segment for piece in gathered().pieces if piece.kind is Kind.CHECKIN]
    assert weak == numbers[4:6]
    assert gathered().count(Kind.CONFIRMATION) == 2


def test_only_the_newest_labels_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MOST_LABELS", 3)
    numbers = live([Said(n, SAD, NEUTRAL) for n in range(5)])
    material = gathered()
    assert [piece.segment for piece in material.pieces] == numbers[2:]
    assert list(material.left_out.values()) == [2]


def test_it_arrives_as_it_is_stored() -> None:
    numbers = live([Said(0, SAD, NEUTRAL), Said(1, SAD, SAD, seconds=0.7), Said(2, SAD)], [(2, HAPPY)])
    file = io.BytesIO()
    send(SETTINGS, gathered().pieces, file)
    file.seek(0)
    arrived = list(read_evidence(file))
    assert [(one.segment, one.emotion, one.kind, one.weight) for one in arrived] == [
        (numbers[0], NEUTRAL, Kind.CORRECTION, 1.0),
        (numbers[1], SAD, Kind.CONFIRMATION, 1.0),
        (numbers[2], HAPPY, Kind.CHECKIN, 0.2),
    ]
    for place, (one, seconds) in enumerate(zip(arrived, (2.0, 0.7, 2.0), strict=True)):
        assert np.array_equal(one.pcm, np.frombuffer(sound(place, seconds), "<i2"))
        assert one.at == EVENING + timedelta(minutes=place)


def test_sound_that_goes_between_looking_and_sending_breaks_it_off() -> None:
    live([Said(0, SAD, NEUTRAL), Said(1, SAD, SAD)])
    pieces, file = gathered().pieces, io.BytesIO()
    with closing(raw(SETTINGS.database_path())) as connection:
        connection.execute("DELETE FROM sound WHERE segment_id = 2")
        connection.commit()
    with pytest.raises(Outdated, match="erased"):
        send(SETTINGS, pieces, file)
    assert not file.getvalue().endswith(b"null\n")


def changes() -> dict[str, object]:
    """What the person may do while it is learned from, and whether it holds after that."""

    def forgets() -> None:
        forget(KEEPING, Stretch(EVENING, EVENING + timedelta(seconds=30)))

    def undoes() -> None:
        with words() as mouth:
            mouth.undo(1)

    def says_otherwise() -> None:
        with words() as mouth:
            mouth.correct(2, HAPPY)

    def takes_back() -> None:
        with words() as mouth:
            mouth.take_back(1)

    def says_more_of_what_was_weak() -> None:
        with words() as mouth:
            mouth.correct(3, FEAR)

    return {each.__name__: each for each in (forgets, undoes, says_otherwise, takes_back, says_more_of_what_was_weak)}


@pytest.mark.parametrize("change", changes())
def test_what_is_erased_taken_back_or_said_otherwise_holds_no_longer(change: str) -> None:
    live([Said(0, SAD, NEUTRAL), Said(1, SAD, SAD), Said(40, SAD)], [(40, HAPPY)])
    pieces = gathered().pieces
    assert [piece.kind for piece in pieces] == [Kind.CORRECTION, Kind.CONFIRMATION, Kind.CHECKIN]
    refuse_outdated(SETTINGS, pieces)
    changes()[change]()  # type: ignore[operator]
    with pytest.raises(Outdated, match="erased, or said otherwise"):
        refuse_outdated(SETTINGS, pieces)


def test_sound_that_was_kept_long_enough_and_new_labels_change_nothing() -> None:
    live([Said(0, SAD, NEUTRAL), Said(1, SAD)])
    pieces = gathered().pieces
    with closing(raw(SETTINGS.database_path())) as connection:
        connection.execute("DELETE FROM sound")
        connection.commit()
    with words() as mouth:
        mouth.correct(2, NEUTRAL)
    refuse_outdated(SETTINGS, pieces)


def test_the_sound_of_what_waits_is_not_kept_sound_and_reading_blocks_no_writer() -> None:
    live([Said(0, SAD, SAD), Said(1, None)])
    path = SETTINGS.database_path()
    with KeptSound.open(path, keys()) as kept:
        assert kept.lengths([1, 2, 3]) == {1: 32_000}
        assert kept.sound(2) is kept.sound(99) is None
        assert kept.sound(1) == sound(0)
        with closing(Timeline.open(path, UTC_ZONE, keys())) as timeline:
            timeline.give_up([2], "a reason")
            timeline.erase_sound(EVENING + timedelta(days=9999))
        assert kept.lengths([1]) == {}


def test_a_year_of_check_ins_is_looked_through_at_once() -> None:
    live([Said(0, SAD, SAD)])
    numbers = count(2)
    with closing(raw(SETTINGS.database_path())) as connection:
        for day in range(365):
            start = EVENING - timedelta(days=day)
            connection.execute(
                "INSERT INTO checkin (at, zone, valence, emotion) VALUES (?, 'UTC', 0, 'H')", (f"{start:%Y-%m-%d %H:%M:%S.%f}",)
            )
            for minute in range(100):
                at, number = start + timedelta(seconds=20 * minute), next(numbers)
                end = at + timedelta(seconds=3)
                connection.execute(
                    "INSERT INTO segment (id, stream, start_sample, end_sample, start_at, end_at, zone, state, emotion, confidence, unsure,"
                    " posterior, bundle_version, judged_at) VALUES (?, 'x', ?, ?, ?, ?, 'UTC', 'judged', 'S', 1, 0, '{\"S\": 1}', 'b', ?)",
                    (number, number, number + 1, *(f"{moment:%Y-%m-%d %H:%M:%S.%f}" for moment in (at, end, end))),
                )
        connection.commit()
    began = time.process_time()
    assert gathered().left_out == {evidence.NO_SPEECH_NEAR: 365}
    assert time.process_time() - began < 5


def test_pieces_of_an_interrupted_training_are_chosen_by_number() -> None:
    live([Said(n, SAD, NEUTRAL) for n in range(4)])
    material = gathered()
    assert [piece.segment for piece in material.only({2, 4}).pieces] == [2, 4]
    assert isinstance(material.pieces[0], Piece)
