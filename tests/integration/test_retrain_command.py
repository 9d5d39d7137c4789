"""`retrain` and its training set: which labels and check-ins count, progress, and the decision in plain words."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from model.bundle_format import PromotionVerdict, read_bundle_manifest
from model.emotions import Emotion
from model.errors import EmosllmError
from model.labelled_segment import HeardWith, LabelKind, read_labelled_segments
from monitor.analysis.days import TimeRange
from monitor.bundles.registry import BundleRegistry
from monitor.config import Config, RetrainConfig
from monitor.deletion import delete_range
from monitor.paths import state_dir
from monitor.personalization import labels
from monitor.personalization.conditions import TrainingConditions
from monitor.personalization.formatting import decision_lines, detail_lines, label_lines, result_lines
from monitor.personalization.labels import LabelSet, LabelsOutdated, SegmentLabel, check_labels_current, gather_labels, send_labels
from monitor.scheduler.jobs import JobOutcome, JobResult
from monitor.storage.reader import AudioReader
from monitor.storage.writer import TimelineWriter
from tests.support.commands import configure, typed
from tests.support.nights import (
    EVENING,
    KEEPING,
    PACKAGED,
    UTC_ZONE,
    Said,
    StandIn,
    a_month,
    decision,
    new_bundle,
    sound,
    words,
    write_kept_speech,
)
from tests.support.storage import keys, raw

SAD, HAPPY, NEUTRAL, CONTEMPT, FEAR = Emotion.SAD, Emotion.HAPPY, Emotion.NEUTRAL, Emotion.CONTEMPT, Emotion.FEAR
SETTINGS = KEEPING.timeline


def gathered(config: Config = KEEPING) -> LabelSet:
    return gather_labels(config, PACKAGED.letters)


def said_of(material: LabelSet) -> list[tuple[int, Emotion, LabelKind, Emotion, float]]:
    return [(piece.segment, piece.emotion, piece.kind, piece.shown, piece.weight) for piece in material.pieces]


def test_an_empty_timeline_and_one_that_is_not_there_teach_nothing() -> None:
    assert gathered() == LabelSet((), {})
    write_kept_speech([Said(0), Said(1)])
    assert gathered() == LabelSet((), {})


def test_corrections_and_confirmations_that_hold_and_whose_sound_is_kept() -> None:
    numbers = write_kept_speech([Said(0, SAD, NEUTRAL), Said(1, SAD, SAD), Said(2, SAD), Said(3, HAPPY, SAD), Said(4, HAPPY, SAD)])
    with words() as mouth:
        mouth.undo(numbers[3])
        mouth.correct(numbers[4], FEAR)
    assert said_of(gathered()) == [
        (numbers[0], NEUTRAL, LabelKind.CORRECTION, SAD, 1.0),
        (numbers[1], SAD, LabelKind.CONFIRMATION, SAD, 1.0),
        (numbers[4], FEAR, LabelKind.CORRECTION, HAPPY, 1.0),
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
    numbers = write_kept_speech(pieces)
    material = gathered()
    assert [piece.segment for piece in material.pieces] == [numbers[0], numbers[6]]
    assert material.left_out == {
        labels.NO_AUDIO_REASON: 2,
        labels.NO_SUCH_LETTER_REASON: 1,
        labels.NOT_PREDICTED_REASON: 1,
        labels.TOO_SHORT_REASON: 1,
    }


def test_a_check_in_teaches_its_nearest_speech_only_and_less_than_a_label() -> None:
    minutes = (-31, -20, -8, -4, -3, -2, -1, 25, 40)
    numbers = dict(
        zip(
            minutes,
            write_kept_speech(
                [*(Said(60 + minute, SAD) for minute in minutes), *(Said(300 + n, SAD, SAD) for n in range(9))], [(60, HAPPY)]
            ),
            strict=False,
        )
    )
    weak = [piece for piece in gathered().pieces if piece.kind is LabelKind.CHECKIN]
    assert [piece.segment for piece in weak] == [numbers[minute] for minute in (-8, -4, -3, -2, -1)]
    assert {(piece.emotion, piece.shown, piece.weight) for piece in weak} == {(HAPPY, SAD, 0.2)}
    assert gathered().count(LabelKind.CHECKIN) == 5


def test_speech_between_two_check_ins_goes_with_the_nearer_one() -> None:
    numbers = write_kept_speech([Said(12, SAD), Said(22, SAD), *(Said(300 + n, SAD, SAD) for n in range(9))], [(10, HAPPY), (25, FEAR)])
    weak = [piece for piece in gathered().pieces if piece.kind is LabelKind.CHECKIN]
    assert [(piece.segment, piece.emotion) for piece in weak] == [(numbers[0], HAPPY), (numbers[1], FEAR)]


def test_what_the_person_says_of_a_piece_itself_stands_above_a_check_in() -> None:
    write_kept_speech([Said(10, SAD, NEUTRAL), Said(11, SAD, SAD)], [(10, HAPPY)])
    material = gathered()
    assert {piece.kind for piece in material.pieces} == {LabelKind.CORRECTION, LabelKind.CONFIRMATION}
    assert material.left_out == {labels.NO_SPEECH_NEAR_REASON: 1}


def test_check_ins_that_cannot_be_answered_or_have_no_kept_speech_near_them_are_counted() -> None:
    write_kept_speech([Said(10, SAD, SAD), Said(100, SAD, kept=False)], [(10, CONTEMPT), (100, HAPPY), (200, HAPPY)])
    assert gathered().left_out == {labels.NO_SUCH_LETTER_REASON: 1, labels.NO_SPEECH_NEAR_REASON: 2}


def test_a_weight_of_none_leaves_check_ins_alone() -> None:
    write_kept_speech([Said(10, SAD, SAD), Said(11, SAD)], [(10, HAPPY)])
    config = Config(retrain=RetrainConfig(checkin_weight=0.0))
    assert gathered(config).count(LabelKind.CHECKIN) == 0
    assert not gathered(config).left_out


def test_weak_labels_never_outnumber_the_others_and_the_newest_stay() -> None:
    minutes = range(0, 240, 40)
    numbers = write_kept_speech(
        [*(Said(minute, SAD) for minute in minutes), Said(280, SAD, SAD), Said(281, SAD, SAD)], [(m, HAPPY) for m in minutes]
    )
    weak = [piece.segment for piece in gathered().pieces if piece.kind is LabelKind.CHECKIN]
    assert weak == numbers[4:6]
    assert gathered().count(LabelKind.CONFIRMATION) == 2


def test_only_the_newest_labels_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "MAX_LABELS", 3)
    numbers = write_kept_speech([Said(n, SAD, NEUTRAL) for n in range(5)])
    material = gathered()
    assert [piece.segment for piece in material.pieces] == numbers[2:]
    assert list(material.left_out.values()) == [2]


def test_it_arrives_as_it_is_stored() -> None:
    numbers = write_kept_speech([Said(0, SAD, NEUTRAL), Said(1, SAD, SAD, seconds=0.7), Said(2, SAD)], [(2, HAPPY)])
    file = io.BytesIO()
    send_labels(SETTINGS, gathered().pieces, file, HeardWith())
    file.seek(0)
    arrived = list(read_labelled_segments(file))
    assert [(one.segment, one.emotion, one.kind, one.weight) for one in arrived] == [
        (numbers[0], NEUTRAL, LabelKind.CORRECTION, 1.0),
        (numbers[1], SAD, LabelKind.CONFIRMATION, 1.0),
        (numbers[2], HAPPY, LabelKind.CHECKIN, 0.2),
    ]
    for place, (one, seconds) in enumerate(zip(arrived, (2.0, 0.7, 2.0), strict=True)):
        assert np.array_equal(one.pcm, np.frombuffer(sound(place, seconds), "<i2"))
        assert one.at == EVENING + timedelta(minutes=place)


def test_sound_that_goes_between_looking_and_sending_breaks_it_off() -> None:
    write_kept_speech([Said(0, SAD, NEUTRAL), Said(1, SAD, SAD)])
    pieces, file = gathered().pieces, io.BytesIO()
    with closing(raw(SETTINGS.database_path())) as connection:
        connection.execute("DELETE FROM sound WHERE segment_id = 2")
        connection.commit()
    with pytest.raises(LabelsOutdated, match="erased"):
        send_labels(SETTINGS, pieces, file, HeardWith())
    assert not file.getvalue().endswith(b"null\n")


def changes() -> dict[str, object]:
    """What the person may do while it is learned from, and whether it holds after that."""

    def forgets() -> None:
        delete_range(KEEPING, TimeRange(EVENING, EVENING + timedelta(seconds=30)))

    def undoes() -> None:
        with words() as mouth:
            mouth.undo(1)

    def says_otherwise() -> None:
        with words() as mouth:
            mouth.correct(2, HAPPY)

    def takes_back() -> None:
        with words() as mouth:
            mouth.retract(1)

    def says_more_of_what_was_weak() -> None:
        with words() as mouth:
            mouth.correct(3, FEAR)

    return {each.__name__: each for each in (forgets, undoes, says_otherwise, takes_back, says_more_of_what_was_weak)}


@pytest.mark.parametrize("change", changes())
def test_what_is_erased_taken_back_or_said_otherwise_holds_no_longer(change: str) -> None:
    write_kept_speech([Said(0, SAD, NEUTRAL), Said(1, SAD, SAD), Said(40, SAD)], [(40, HAPPY)])
    pieces = gathered().pieces
    assert [piece.kind for piece in pieces] == [LabelKind.CORRECTION, LabelKind.CONFIRMATION, LabelKind.CHECKIN]
    check_labels_current(SETTINGS, pieces)
    changes()[change]()  # type: ignore[operator]
    with pytest.raises(LabelsOutdated, match="erased, or said otherwise"):
        check_labels_current(SETTINGS, pieces)


def test_sound_that_was_kept_long_enough_and_new_labels_change_nothing() -> None:
    write_kept_speech([Said(0, SAD, NEUTRAL), Said(1, SAD)])
    pieces = gathered().pieces
    with closing(raw(SETTINGS.database_path())) as connection:
        connection.execute("DELETE FROM sound")
        connection.commit()
    with words() as mouth:
        mouth.correct(2, NEUTRAL)
    check_labels_current(SETTINGS, pieces)


def test_the_sound_of_what_waits_is_not_kept_sound_and_reading_blocks_no_writer() -> None:
    write_kept_speech([Said(0, SAD, SAD), Said(1, None)])
    path = SETTINGS.database_path()
    with AudioReader.open(path, keys()) as kept:
        assert kept.lengths([1, 2, 3]) == {1: 32_000}
        assert kept.sound(2) is kept.sound(99) is None
        assert kept.sound(1) == sound(0)
        with closing(TimelineWriter.open(path, UTC_ZONE, keys())) as timeline:
            timeline.give_up([2], "a reason")
            timeline.erase_audio(EVENING + timedelta(days=9999))
        assert kept.lengths([1]) == {}


def test_a_year_of_check_ins_is_looked_through_at_once() -> None:
    write_kept_speech([Said(0, SAD, SAD)])
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
    assert gathered().left_out == {labels.NO_SPEECH_NEAR_REASON: 365}
    assert time.process_time() - began < 5


def test_pieces_of_an_interrupted_training_are_chosen_by_number() -> None:
    write_kept_speech([Said(n, SAD, NEUTRAL) for n in range(4)])
    material = gathered()
    assert [piece.segment for piece in material.only({2, 4}).pieces] == [2, 4]
    assert isinstance(material.pieces[0], SegmentLabel)


@pytest.fixture
def stand_in(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    configure(home, privacy={"keep_audio": True}, retrain={"min_labels": 20, "min_new_labels": 5}, timeline={"zone": "UTC"})
    return StandIn(tmp_path, monkeypatch)


def test_too_little_is_told_and_no_failure(stand_in: StandIn) -> None:
    write_kept_speech(a_month(3))
    done = typed("retrain", "--now")
    assert done.exit_code == 0
    assert done.stdout == (
        "Nothing was trained: you corrected or confirmed 3 pieces of speech that can be learned from, and 20 are needed"
        " ([retrain] min_labels).\n"
    )


def test_a_better_model_is_used_and_every_figure_is_told_with_what_it_means(stand_in: StandIn, tmp_path: Path) -> None:
    write_kept_speech([*a_month(), Said(50, Emotion.SAD, Emotion.NEUTRAL, kept=False)], [(10, Emotion.SAD)])
    made = new_bundle(tmp_path / "made")
    version = read_bundle_manifest(made).version
    stand_in.does(decides=decision(PromotionVerdict.PROMOTED, version=version), made=made)
    done = typed("retrain", "--now")
    assert done.exit_code == 0
    assert done.stderr.splitlines() == [
        "To learn from: 16 corrections, 8 confirmations.",
        "Left out: 1, a check-in without kept speech near it that you have not named yourself.",
        "Left out: 1, no sound of it was kept.",
        "learning",
    ]
    assert done.stdout.splitlines() == [
        f"A new model is in use ({version}): it answers more as you do.",
        "It learned from 24 pieces of your speech, and was tested on 24, each answered by a model that had not learned from it.",
        "The training left out 1: its sound is silent.",
        "It learned a bias for each emotion, in log-odds (sad -0.6, neutral +0.6); then mapper and adapter, in 30 steps.",
        "Of 24 labels, the model in use answers 8 as you do, and the new one 15: 8 gained, 1 lost. Weighed by how rarely you confirm, the"
        " net gain is 5.5.",
        "If it were no better than the one in use, the chance of such a gain would be 3.1 %; if your corrections said nothing about the"
        " sound, the chance that they go so well with its answers would be under 0.1 %. Both must be at most 5.0 %.",
        "On 240 clips of 4 other voices its unweighted accuracy is 0.699; that of the released model is 0.704.",
        "With 95 % certainty it fell by at most 1.1 points; 28.0 are allowed, because it serves you alone.",
        "The largest loss there is on fear: recognised in 70% before and 66% now (32 clips).",
        "Its confidence is fitted anew: temperature 1.20 before and 1.10 now; under 58% it counts as unsure (60% before), so that it is"
        " sure in 64% of those clips (61% before).",
        "It took 7 minutes.",
    ]
    assert BundleRegistry.of(Config()).active() == str(state_dir() / "bundles" / version)


def test_one_that_is_refused_leaves_the_old_one_and_the_history_knows_all_of_it(stand_in: StandIn) -> None:
    write_kept_speech(a_month())
    stand_in.does(decides=decision(PromotionVerdict.REFUSED, reason="5 more of 7 may be luck"))
    done = typed("retrain", "--now")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "The new model is not used: 5 more of 7 may be luck."
    assert lines[-1] == f"The model in use stays as it is: {PACKAGED.version}."
    (run,) = json.loads(typed("schedule", "history", "retrain", "--json").stdout)
    assert (run["outcome"], run["reason"]) == ("refused", "5 more of 7 may be luck")
    assert detail_lines(run["details"]) == decision_lines(decision(PromotionVerdict.REFUSED))
    again = typed("retrain", "--now").stdout
    assert "0 of your 24 corrections and confirmations are new since the last training, and 5 are needed" in again


def test_a_trial_says_what_would_come_of_it_and_is_not_remembered(stand_in: StandIn, tmp_path: Path) -> None:
    write_kept_speech(a_month())
    made = new_bundle(tmp_path / "made")
    stand_in.does(decides=decision(PromotionVerdict.PROMOTED, version=read_bundle_manifest(made).version), made=made)
    for _ in range(2):
        lines = typed("retrain", "--now", "--dry-run").stdout.splitlines()
        assert lines[0].startswith("The new model passed; nothing was changed, because this was a trial")
        assert lines[-1] == f"The model in use stays as it is: {PACKAGED.version}."
    assert BundleRegistry.of(Config()).active() == "compact"
    assert json.loads(typed("schedule", "history", "--json").stdout) == []


def test_json_holds_the_same_facts(stand_in: StandIn) -> None:
    write_kept_speech(a_month())
    stand_in.does(decides=decision(PromotionVerdict.REFUSED))
    told = json.loads(typed("retrain", "--now", "--json").stdout)
    assert told["outcome"] == "refused"
    assert told["details"]["decision"] == decision(PromotionVerdict.REFUSED).model_dump(mode="json")
    assert told["details"]["corrections"] == 16


def test_a_failure_is_an_error_with_its_reason(stand_in: StandIn) -> None:
    write_kept_speech(a_month())
    stand_in.does("fail")
    with pytest.raises(EmosllmError, match=r"mapper\.safetensors is not the file it was released with; the model in use is unchanged"):
        typed("retrain", "--now")
    (run,) = json.loads(typed("schedule", "history", "--json").stdout)
    assert run["outcome"] == "failed"


def test_without_now_the_conditions_hold(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    write_kept_speech(a_month())
    stand_in.does(decides=decision(PromotionVerdict.REFUSED))
    monkeypatch.setattr(TrainingConditions, "no_mains", lambda _self: "the machine runs on its battery ([retrain] on_mains_only)")
    with pytest.raises(
        EmosllmError, match=r"skipped: the machine runs on its battery .* Use --now to ignore the power, load and speech checks"
    ):
        typed("retrain")
    assert json.loads(typed("schedule", "history", "--json").stdout) == []
    assert typed("retrain", "--now").exit_code == 0


def test_without_a_timeline_that_is_said(stand_in: StandIn) -> None:
    with pytest.raises(EmosllmError, match="there is no timeline"):
        typed("retrain", "--now")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_is_stopped_in_good_order(stand_in: StandIn, number: signal.Signals) -> None:
    write_kept_speech(a_month())
    stand_in.does("hang")
    # The rank of a training would let it wait for ever here.
    code = (
        "import monitor.personalization.training_process as p; p._low_priority_command = lambda cores: []\n"
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from monitor.cli.main import main; main()"
    )
    running = subprocess.Popen([sys.executable, "-c", code, "retrain", "--now"], stdout=subprocess.PIPE, env=os.environ)
    deadline = time.monotonic() + 120
    while not stand_in.began:
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(number)
    shown, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert shown.decode().startswith("The training was stopped: it was stopped, and goes on next time.")
    (run,) = json.loads(typed("schedule", "history", "--json").stdout)
    assert run["outcome"] == "stopped"


def test_a_decision_of_an_earlier_version_is_still_told() -> None:
    """As a history holds it from when other voices were guarded more strictly, and each label was asked about by what was before it."""
    told = decision(PromotionVerdict.REFUSED).model_dump(mode="json")
    told["learned"] |= {"trained": 14, "stopping": 3, "held_out": 7}
    told["public"]["class_margin"] = 0.05
    del told["stage"], told["letter_bias"], told["own"]["net_gain"]
    lines = detail_lines({"decision": told})
    assert lines[0].startswith("It learned from 14 pieces of your speech, and was tested on 7,")
    assert not any("log-odds" in line or "net gain" in line for line in lines)


def test_nothing_to_say_of_a_decision_that_was_none() -> None:
    assert label_lines(LabelSet((), {})) == ["To learn from: 0 corrections, 0 confirmations."]
    assert detail_lines({}) == []
    assert result_lines(JobResult(JobOutcome.STOPPED, "it was stopped", {"bundle": "compact-1"})) == [
        "The training was stopped: it was stopped.",
        "The model in use stays as it is: compact-1.",
    ]
