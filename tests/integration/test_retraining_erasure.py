"""Interrupted retraining and erasure: what continues, what starts anew, and that erased speech is not learned."""

import json
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from model.bundle_format import LEARNED_FROM_FILE, PromotionVerdict
from model.errors import TrainingError
from monitor.analysis.days import TimeRange
from monitor.bundles.library import BundleLibrary
from monitor.bundles.registry import BundleRegistry, is_retired
from monitor.deletion import delete_everything, delete_range, preview_deletion
from monitor.fileio import locked
from monitor.paths import state_dir
from monitor.personalization import labels
from monitor.personalization.retraining import LastAttempt
from monitor.personalization.training_process import TrainingFolder
from monitor.scheduler.jobs import JobOutcome
from tests.support.nights import (
    EVENING,
    KEEPING,
    NIGHT,
    StandIn,
    a_month,
    decision,
    left_in_work,
    night,
    promoting,
    while_it_trains,
    words,
    write_kept_speech,
)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch)


def test_whoever_stops_it_ends_it_in_good_order_and_the_next_time_goes_on_with_the_same(stand_in: StandIn) -> None:
    numbers = write_kept_speech(a_month())
    stand_in.does("hang")
    stop = Event()
    thread = while_it_trains(stand_in, stop.set)
    result = night(stop=stop)
    thread.join()
    assert (result.outcome, result.reason) == (JobOutcome.STOPPED, "it was stopped, and goes on next time")
    assert LastAttempt.of(NIGHT, result.details) is None
    write_kept_speech(a_month(6, first_minute=100))
    stand_in.does(decides=decision(PromotionVerdict.REFUSED))
    again = night()
    assert [one[0] for one in stand_in.seen["got"]] == numbers, "new labels wait for the next time"
    last = LastAttempt.of(NIGHT, again.details)
    assert night(last=last).outcome is JobOutcome.REFUSED, "which knows them"
    assert len(stand_in.seen["got"]) == 30


def interrupted(stand_in: StandIn) -> None:
    """A training that had all its evidence."""
    stand_in.does("hang")
    stop = Event()
    thread = while_it_trains(stand_in, stop.set)
    assert night(stop=stop).outcome is JobOutcome.STOPPED
    thread.join()
    stand_in.does(decides=decision(PromotionVerdict.REFUSED))


def test_what_was_interrupted_long_ago_is_begun_anew(stand_in: StandIn) -> None:
    write_kept_speech(a_month())
    interrupted(stand_in)
    write_kept_speech(a_month(6, first_minute=100))
    night(now=NIGHT + timedelta(days=4))
    assert len(stand_in.seen["got"]) == 30


def test_what_was_interrupted_and_holds_no_longer_is_begun_anew(stand_in: StandIn) -> None:
    write_kept_speech(a_month())
    interrupted(stand_in)
    with words() as mouth:
        mouth.undo(1)
    write_kept_speech(a_month(6, first_minute=100))
    night()
    assert [one[0] for one in stand_in.seen["got"]] == list(range(2, 31))


def test_two_trainings_at_once_are_one_too_many(stand_in: StandIn) -> None:
    write_kept_speech(a_month())
    with TrainingFolder.of_this_machine().held(), pytest.raises(TrainingError, match="another training is going on"):
        night()


FIRST_MINUTE = TimeRange(EVENING, EVENING + timedelta(seconds=30))


def test_what_is_forgotten_while_it_trains_is_not_learned(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.personalization.retraining._LABELS_EVERY_S", 0.1)
    write_kept_speech(a_month())
    stand_in.does("hang")
    thread = while_it_trains(stand_in, lambda: delete_range(KEEPING, FIRST_MINUTE))
    result = night()
    thread.join()
    assert (result.outcome, result.reason) == (JobOutcome.FAILED, labels.LABELS_CHANGED_REASON)
    assert not left_in_work()
    assert BundleRegistry.of(KEEPING).active() == "compact"


def test_what_is_forgotten_at_the_last_moment_is_not_learned_either(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_kept_speech(a_month())
    promoting(stand_in, tmp_path)
    # Whoever forgets holds the turn when the training ends, and is through before the new bundle comes in.
    from monitor.personalization import retraining as module

    def turn_after_forgetting(folder: Path) -> Any:
        delete_range(KEEPING, FIRST_MINUTE)
        return locked(folder)

    monkeypatch.setattr(module, "locked", turn_after_forgetting)
    result = night()
    assert (result.outcome, result.reason) == (JobOutcome.FAILED, labels.LABELS_CHANGED_REASON)
    assert not BundleLibrary.of(KEEPING).all()
    assert BundleRegistry.of(KEEPING).active() == "compact"


def test_what_is_forgotten_afterwards_retires_what_learned_from_it(stand_in: StandIn, tmp_path: Path) -> None:
    write_kept_speech(a_month())
    version = promoting(stand_in, tmp_path)
    night()
    receipt = delete_range(KEEPING, FIRST_MINUTE)
    assert receipt.retired == [version]
    assert is_retired(state_dir() / "bundles" / version)
    assert BundleRegistry.of(KEEPING).active() == "compact"


def test_a_half_trained_model_that_learned_from_it_is_forgotten_and_another_stays(stand_in: StandIn) -> None:
    write_kept_speech(a_month())
    interrupted(stand_in)
    other = TimeRange(EVENING - timedelta(days=9), EVENING - timedelta(days=8))
    assert not preview_deletion(KEEPING, other).half_trained
    delete_range(KEEPING, other)
    assert "weights" in left_in_work()
    assert preview_deletion(KEEPING, FIRST_MINUTE).half_trained
    receipt = delete_range(KEEPING, FIRST_MINUTE)
    assert "a half-trained model, which learned from it" in receipt.removed
    assert not left_in_work()


def test_forgetting_everything_leaves_neither_weights_nor_log(stand_in: StandIn) -> None:
    write_kept_speech(a_month())
    stand_in.does("fail")
    night()
    assert (state_dir() / "retrain.log").exists()
    receipt = delete_everything(KEEPING)
    assert "retrain.log" in receipt.removed
    assert not (state_dir() / "retrain.log").exists()
    assert not left_in_work()


def test_no_file_outside_the_timeline_holds_a_word_a_label_or_sound(stand_in: StandIn) -> None:
    write_kept_speech(a_month())
    stand_in.does("fail")
    night()
    told = json.loads((TrainingFolder.of_this_machine().folder / LEARNED_FROM_FILE).read_text())
    assert set(told) == {"segments", "from", "to", "since"}
    assert TrainingFolder.of_this_machine().folder.stat().st_mode & 0o777 == 0o700
    assert (state_dir() / "retrain.log").stat().st_mode & 0o777 == 0o600
