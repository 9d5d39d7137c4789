"""One night's learning from the monitor's side: enough or not, now or not, better or not, and whatever goes wrong the old bundle stays.

The training is a stand-in that speaks the real protocol; what is trained is no matter here.
"""

import json
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import psutil
import pytest

from model.decision import Verdict
from model.errors import TrainingError
from model.manifest import LEARNED_FROM, find_bundle, read_manifest
from model.types import Emotion, Prediction
from model.voice_reference import VoiceSums
from monitor.config import Config, EngineConfig, PrivacyConfig, RetrainConfig, state_dir
from monitor.control import ControlServer, socket_path
from monitor.day.stretches import Stretch
from monitor.forgetting import forget, forget_all, survey
from monitor.jobs.job import NotNow, Outcome, Result
from monitor.judging.retirement import is_retired
from monitor.library import Library
from monitor.look import in_use_of
from monitor.retraining import evidence
from monitor.retraining.conditions import Conditions, Load
from monitor.retraining.job import retrain_job
from monitor.retraining.remembering import last_attempt, remembered
from monitor.retraining.retrain import LastAttempt, retrain
from monitor.retraining.work import Work
from monitor.store.lock import taking_turns
from monitor.store.reader import TimelineReader
from monitor.store.records import Judgement
from monitor.store.timeline import Timeline
from monitor.store.voice_reference import HeardAgainst
from tests.bundles import Monitor
from tests.nights import (
    EVENING,
    KEEPING,
    NIGHT,
    PACKAGED,
    UTC_ZONE,
    Said,
    StandIn,
    Times,
    a_month,
    decision,
    live,
    new_bundle,
    quiet,
    sound,
    words,
)
from tests.stores import keys

SAD, NEUTRAL, HAPPY = Emotion.SAD, Emotion.NEUTRAL, Emotion.HAPPY


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch)


def night(
    config: Config = KEEPING, *, dry_run: bool = False, last: LastAttempt | None = None, stop: Event | None = None, **more: Any
) -> Result:
    told: list[str] = []
    work = Work.of_this_machine().folder
    asked = {"now": NIGHT, "regardless": False, "conditions": quiet(config, work), "tell": told.append, **more}
    return retrain(config, dry_run=dry_run, stop=stop or Event(), last=last, **asked)


def promoting(stand_in: StandIn, folder: Path, seed: int = 1, **changed: Any) -> str:
    """The training makes a bundle that is better; returns its version."""
    made = new_bundle(folder / f"made{seed}", seed)
    version = read_manifest(made).version
    stand_in.does(decides=decision(Verdict.PROMOTED, version=version, **changed), made=made)
    return version


def left_in_work() -> list[str]:
    folder = Work.of_this_machine().folder
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def while_it_trains(stand_in: StandIn, do: Callable[[], object]) -> threading.Thread:
    """Do something once the training has all its evidence."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while not stand_in.began and time.monotonic() < deadline:
            time.sleep(0.02)
        do()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


# is there enough -------------------------------------------------------------------------------------------------


def replace_section(config: Config, **sections: object) -> Config:
    return config.model_copy(update=sections)


def test_without_kept_sound_there_is_nothing_to_learn_from(stand_in: StandIn) -> None:
    live(a_month())
    result = night(replace_section(KEEPING, privacy=PrivacyConfig()))
    assert result.outcome is Outcome.NOTHING
    assert "keep_audio = true" in result.reason


def test_too_few_labels_are_told_with_what_was_left_out(stand_in: StandIn) -> None:
    live([*a_month(19), Said(30, SAD, NEUTRAL, kept=False), Said(31, SAD, Emotion.CONTEMPT)])
    result = night()
    assert result.outcome is Outcome.NOTHING
    assert result.reason == (
        "you corrected or confirmed 19 pieces of speech that can be learned from, and 20 are needed ([retrain] min_labels);"
        " left out were 1: no sound of it was kept; 1: the model cannot answer that emotion"
    )
    assert (result.details["corrections"], result.details["confirmations"]) == (12, 7)
    assert "decision" not in result.details


def test_each_training_needs_labels_that_the_last_one_did_not_know(stand_in: StandIn) -> None:
    stand_in.does(decides=decision(Verdict.REFUSED))
    live(a_month(24))
    first = night()
    last = LastAttempt.of(NIGHT, first.details)
    assert last == LastAttempt(NIGHT, 24)
    second = night(last=last)
    assert second.outcome is Outcome.NOTHING
    assert second.reason.startswith("0 of your 24 corrections and confirmations are new since the last training, and 5 are needed")
    assert night(last=last, dry_run=True).outcome is Outcome.REFUSED, "a trial may be repeated: nothing comes of it"


def test_a_clock_that_was_set_back_hides_no_new_label() -> None:
    known = LastAttempt(NIGHT, 24)
    assert known.knew(24, NIGHT - timedelta(hours=1))
    assert not known.knew(25, NIGHT - timedelta(days=300))
    assert not known.knew(3, NIGHT + timedelta(hours=1)), "numbers of erased labels are given again"


# is it the time --------------------------------------------------------------------------------------------------


class Battery:
    def __init__(self, plugged: bool | None) -> None:
        self.power_plugged = plugged


def conditions(battery: Battery | None = None, user: float = 0.0, config: Config = KEEPING) -> Conditions:
    """user: of ten seconds on one processor."""
    folder = state_dir()
    folder.mkdir(parents=True, exist_ok=True)
    times = iter(Times(user * n, 9.0 * n, 0.0, (10 - user) * n) for n in range(1000))
    return Conditions(config, folder, battery=lambda: battery, load=Load(lambda: next(times)), rest=lambda _s: None)


@pytest.mark.parametrize(
    ("battery", "user", "reason"),
    [
        (None, 0.0, ""),
        (Battery(True), 1.0, ""),
        (Battery(None), 1.0, ""),
        (Battery(False), 0.0, "the machine runs on its battery ([retrain] on_mains_only)"),
        (None, 9.5, "the machine is busy: 50% of its processors' time is used ([retrain] when_idle)"),
    ],
)
def test_power_and_load(battery: Battery | None, user: float, reason: str) -> None:
    assert conditions(battery, user).unmet(NIGHT, 0, regardless=False) == reason
    assert not conditions(battery, user).unmet(NIGHT, 0, regardless=True)
    relaxed = replace_section(KEEPING, retrain=RetrainConfig(on_mains_only=False, when_idle=False))
    assert not conditions(battery, user, relaxed).unmet(NIGHT, 0, regardless=False)


def test_somebody_who_spoke_just_now_or_speaks() -> None:
    live([Said(0, SAD)])
    end = EVENING + timedelta(seconds=2)
    assert conditions().spoken(end + timedelta(minutes=4)) == "somebody spoke less than 5 minutes ago ([retrain] when_idle)"
    assert not conditions().spoken(end + timedelta(minutes=6))
    with ControlServer(socket_path(KEEPING.timeline.database_path()), {"status": lambda _: {"speaking": True}}):
        assert conditions().spoken(NIGHT) == "somebody is speaking ([retrain] when_idle)"


def test_a_disk_without_room_counts_for_everybody() -> None:
    for regardless in (False, True):
        reason = conditions().unmet(NIGHT, 2**60, regardless=regardless)
        assert reason.startswith("only ")
        assert reason.endswith(" are needed; free some space")


def test_the_true_machine_can_be_asked() -> None:
    load = Load()
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        pass
    assert 0 < load.share() <= 1
    folder = state_dir()
    folder.mkdir(parents=True)
    assert isinstance(Conditions(KEEPING, folder).no_mains(), str)


def test_conditions_that_do_not_hold_are_no_failure_and_nothing_is_begun(stand_in: StandIn) -> None:
    live(a_month())
    with pytest.raises(NotNow, match="on its battery"):
        night(conditions=conditions(Battery(False)))
    assert not stand_in.began
    assert not left_in_work()


def test_conditions_that_end_while_it_trains_end_it_and_it_can_go_on(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.retraining.retrain._CONDITIONS_EVERY_S", 0.1)
    live(a_month())
    battery = Battery(True)
    stand_in.does("hang")

    def unplug() -> None:
        battery.power_plugged = False

    thread = while_it_trains(stand_in, unplug)
    with pytest.raises(NotNow, match=r"on its battery .*; it goes on when that is over"):
        night(conditions=conditions(battery))
    thread.join()
    assert not psutil.pid_exists(stand_in.seen["pid"])
    assert {"weights", LEARNED_FROM} <= set(left_in_work())


# what comes of it ------------------------------------------------------------------------------------------------


def test_a_better_bundle_is_kept_and_used(stand_in: StandIn, tmp_path: Path) -> None:
    numbers = live(a_month())
    version = promoting(stand_in, tmp_path)
    result = night()
    assert (result.outcome, result.reason) == (Outcome.DONE, "it answers more as you do")
    assert in_use_of(KEEPING) == str(state_dir() / "bundles" / version)
    assert [use.why for use in Library.of(KEEPING).in_use.uses()] == [f"it learned from you: {result.reason}"]
    assert result.details["decision"]["version"] == version
    assert result.details["bundle"] == PACKAGED.version
    assert json.loads(json.dumps(result.details)) == result.details
    assert not left_in_work()
    seen = stand_in.seen
    assert seen["command"] == "nightly"
    assert [one[0] for one in seen["got"]] == numbers
    assert seen["arguments"]["--threads"] == "1"


def test_it_hears_the_person_as_the_monitor_does(stand_in: StandIn) -> None:
    """It is given the reference of their voice for the bundle in use, and the prior."""
    config = KEEPING.model_copy(update={"engine": EngineConfig(bundle="compact", prior="balanced")})
    compact = read_manifest(find_bundle("compact"))
    live(a_month())
    stand_in.does(decides=decision(Verdict.REFUSED, parent=compact.version))
    assert night(config).outcome is Outcome.REFUSED
    assert (stand_in.seen["reference"], stand_in.seen["prior"]) == (None, "balanced")
    sums = VoiceSums(1.0, 2.0, np.arange(8, dtype=np.float32))
    say_to(compact.voice_space, sums)
    say_to("another", VoiceSums(9.0, 60.0, sums.sums))
    assert night(config).outcome is Outcome.REFUSED
    assert stand_in.seen["reference"] == sums.to_bytes().hex()


def say_to(voice_space: str | None, sums: VoiceSums) -> None:
    """Some speech from which the monitor learned the person's voice."""
    assert voice_space is not None
    with closing(Timeline.open(KEEPING.timeline.database_path(), UTC_ZONE, keys())) as timeline:
        begin = 10**9
        spoken = {"start_at": NIGHT, "end_at": NIGHT + timedelta(seconds=2)}
        number = timeline.add_segment(start_sample=begin, end_sample=begin + 32_000, sound=sound(99), microphone="desk", **spoken)
        heard = HeardAgainst(voice_space, sums, None)
        timeline.judge({number: Judgement(Prediction({Emotion.SAD: 1.0}, False, "compact-1"), None, None, heard)})


def test_a_running_monitor_is_asked_first(stand_in: StandIn, tmp_path: Path) -> None:
    live(a_month())
    version, monitor = promoting(stand_in, tmp_path), Monitor()
    commands = {"use-bundle": monitor.use, "status": lambda _: {"speaking": False}}
    with ControlServer(socket_path(KEEPING.timeline.database_path()), commands):
        assert night().outcome is Outcome.DONE
    assert monitor.using == str(state_dir() / "bundles" / version)


def test_an_engine_that_refuses_the_new_one_keeps_the_old_one_in_use(stand_in: StandIn, tmp_path: Path) -> None:
    live(a_month())
    version = promoting(stand_in, tmp_path)
    monitor = Monitor(refusing="the engine does not take adapters of rank 64")
    commands = {"use-bundle": monitor.use, "status": lambda _: {"speaking": False}}
    with ControlServer(socket_path(KEEPING.timeline.database_path()), commands):
        result = night()
    assert result.outcome is Outcome.FAILED
    assert version in result.reason
    assert "adapters of rank 64" in result.reason
    assert in_use_of(KEEPING) == "compact"


def test_one_that_is_not_shown_to_be_better_is_not_used_and_that_is_no_failure(stand_in: StandIn) -> None:
    live(a_month())
    stand_in.does(decides=decision(Verdict.REFUSED, reason="2 more of 7 may be luck"))
    result = night()
    assert (result.outcome, result.reason) == (Outcome.REFUSED, "2 more of 7 may be luck")
    assert in_use_of(KEEPING) == "compact"
    assert not Library.of(KEEPING).all()
    assert not left_in_work()


def test_a_training_that_finds_too_little_has_nothing_to_do(stand_in: StandIn) -> None:
    live(a_month())
    stand_in.does(decides=decision(Verdict.TOO_LITTLE, reason="all say the same emotion"))
    assert night().outcome is Outcome.NOTHING


def test_a_trial_uses_nothing_and_leaves_nothing(stand_in: StandIn, tmp_path: Path) -> None:
    live(a_month())
    promoting(stand_in, tmp_path)
    result = night(dry_run=True)
    assert (result.outcome, result.details["dry_run"]) == (Outcome.DONE, True)
    assert in_use_of(KEEPING) == "compact"
    assert not Library.of(KEEPING).all()
    assert not left_in_work()


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("fail", "the bundle is damaged: mapper.safetensors"),
        ("crash", "ended by the signal SIGSEGV"),
        ("raise", "RuntimeError: a bug"),
        ("babble", "the training's answer is no decision"),
    ],
)
def test_a_training_that_fails_leaves_the_old_one_and_says_why(stand_in: StandIn, does: str, reason: str) -> None:
    live(a_month())
    stand_in.does(does)
    result = night()
    assert result.outcome is Outcome.FAILED
    assert reason in result.reason
    assert in_use_of(KEEPING) == "compact"
    assert set(left_in_work()) == {"failed", "weights", LEARNED_FROM}
    assert night().outcome is Outcome.FAILED
    assert not left_in_work(), "what failed twice is not gone on with"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": "compact-00000000"}, "decided about the model compact-00000000"),
        ({"parent": "compact-11111111"}, "began with the model compact-11111111 instead of"),
    ],
)
def test_a_decision_about_something_else_is_not_followed(stand_in: StandIn, tmp_path: Path, changed: dict[str, str], reason: str) -> None:
    live(a_month())
    made = new_bundle(tmp_path / "made")
    fields = {"version": read_manifest(made).version, **changed}
    stand_in.does(decides=decision(Verdict.PROMOTED, **fields), made=made)
    result = night()
    assert result.outcome is Outcome.FAILED
    assert reason in result.reason
    assert in_use_of(KEEPING) == "compact"


def test_a_promise_without_a_bundle_and_one_that_could_not_be_forgotten_are_not_followed(stand_in: StandIn, tmp_path: Path) -> None:
    live(a_month())
    stand_in.does(decides=decision(Verdict.PROMOTED))
    assert "made no model that can be used" in night().reason
    made = new_bundle(tmp_path / "made", segments=[999])
    (made / LEARNED_FROM).unlink()
    stand_in.does(decides=decision(Verdict.PROMOTED, version=read_manifest(made).version), made=made)
    assert "does not say what it learned from" in night().reason


def test_a_tampered_bundle_is_not_used(stand_in: StandIn, tmp_path: Path) -> None:
    live(a_month())
    version = promoting(stand_in, tmp_path)
    with (tmp_path / "made1" / "mapper.safetensors").open("r+b") as file:
        file.seek(200)
        file.write(b"x")
    result = night()
    assert result.outcome is Outcome.FAILED
    assert "damaged" in result.reason
    assert version
    assert in_use_of(KEEPING) == "compact"


def test_another_bundle_that_came_into_use_meanwhile_stays(stand_in: StandIn, tmp_path: Path) -> None:
    live(a_month())
    other = Library.of(KEEPING).add(new_bundle(tmp_path / "other", 9))
    promoting(stand_in, tmp_path)
    stand_in.thinks(2.0)
    thread = while_it_trains(stand_in, lambda: Library.of(KEEPING).in_use.use(str(other), "you chose it", NIGHT))
    result = night()
    thread.join()
    assert result.outcome is Outcome.FAILED
    assert "was put in use while" in result.reason
    assert in_use_of(KEEPING) == str(other)


# the end of it ---------------------------------------------------------------------------------------------------


def test_whoever_stops_it_ends_it_in_good_order_and_the_next_time_goes_on_with_the_same(stand_in: StandIn) -> None:
    numbers = live(a_month())
    stand_in.does("hang")
    stop = Event()
    thread = while_it_trains(stand_in, stop.set)
    result = night(stop=stop)
    thread.join()
    assert (result.outcome, result.reason) == (Outcome.STOPPED, "it was stopped, and goes on next time")
    assert LastAttempt.of(NIGHT, result.details) is None
    live(a_month(6, first_minute=100))
    stand_in.does(decides=decision(Verdict.REFUSED))
    again = night()
    assert [one[0] for one in stand_in.seen["got"]] == numbers, "new labels wait for the next time"
    last = LastAttempt.of(NIGHT, again.details)
    assert night(last=last).outcome is Outcome.REFUSED, "which knows them"
    assert len(stand_in.seen["got"]) == 30


def interrupted(stand_in: StandIn) -> None:
    """A training that had all its evidence."""
    stand_in.does("hang")
    stop = Event()
    thread = while_it_trains(stand_in, stop.set)
    assert night(stop=stop).outcome is Outcome.STOPPED
    thread.join()
    stand_in.does(decides=decision(Verdict.REFUSED))


def test_what_was_interrupted_long_ago_is_begun_anew(stand_in: StandIn) -> None:
    live(a_month())
    interrupted(stand_in)
    live(a_month(6, first_minute=100))
    night(now=NIGHT + timedelta(days=4))
    assert len(stand_in.seen["got"]) == 30


def test_what_was_interrupted_and_holds_no_longer_is_begun_anew(stand_in: StandIn) -> None:
    live(a_month())
    interrupted(stand_in)
    with words() as mouth:
        mouth.undo(1)
    live(a_month(6, first_minute=100))
    night()
    assert [one[0] for one in stand_in.seen["got"]] == list(range(2, 31))


def test_two_trainings_at_once_are_one_too_many(stand_in: StandIn) -> None:
    live(a_month())
    with Work.of_this_machine().held(), pytest.raises(TrainingError, match="another training is going on"):
        night()


# forgetting ------------------------------------------------------------------------------------------------------

FIRST_MINUTE = Stretch(EVENING, EVENING + timedelta(seconds=30))


def test_what_is_forgotten_while_it_trains_is_not_learned(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.retraining.retrain._EVIDENCE_EVERY_S", 0.1)
    live(a_month())
    stand_in.does("hang")
    thread = while_it_trains(stand_in, lambda: forget(KEEPING, FIRST_MINUTE))
    result = night()
    thread.join()
    assert (result.outcome, result.reason) == (Outcome.FAILED, evidence.ERASED)
    assert not left_in_work()
    assert in_use_of(KEEPING) == "compact"


def test_what_is_forgotten_at_the_last_moment_is_not_learned_either(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(a_month())
    promoting(stand_in, tmp_path)
    # Whoever forgets holds the turn when the training ends, and is through before the new bundle comes in.
    from monitor.retraining import retrain as module

    def turn_after_forgetting(folder: Path) -> Any:
        forget(KEEPING, FIRST_MINUTE)
        return taking_turns(folder)

    monkeypatch.setattr(module, "taking_turns", turn_after_forgetting)
    result = night()
    assert (result.outcome, result.reason) == (Outcome.FAILED, evidence.ERASED)
    assert not Library.of(KEEPING).all()
    assert in_use_of(KEEPING) == "compact"


def test_what_is_forgotten_afterwards_retires_what_learned_from_it(stand_in: StandIn, tmp_path: Path) -> None:
    live(a_month())
    version = promoting(stand_in, tmp_path)
    night()
    receipt = forget(KEEPING, FIRST_MINUTE)
    assert receipt.retired == [version]
    assert is_retired(state_dir() / "bundles" / version)
    assert in_use_of(KEEPING) == "compact"


def test_a_half_trained_model_that_learned_from_it_is_forgotten_and_another_stays(stand_in: StandIn) -> None:
    live(a_month())
    interrupted(stand_in)
    other = Stretch(EVENING - timedelta(days=9), EVENING - timedelta(days=8))
    assert not survey(KEEPING, other).half_trained
    forget(KEEPING, other)
    assert "weights" in left_in_work()
    assert survey(KEEPING, FIRST_MINUTE).half_trained
    receipt = forget(KEEPING, FIRST_MINUTE)
    assert "a half-trained model, which learned from it" in receipt.removed
    assert not left_in_work()


def test_forgetting_everything_leaves_neither_weights_nor_log(stand_in: StandIn) -> None:
    live(a_month())
    stand_in.does("fail")
    night()
    assert (state_dir() / "retrain.log").exists()
    receipt = forget_all(KEEPING)
    assert "retrain.log" in receipt.removed
    assert not (state_dir() / "retrain.log").exists()
    assert not left_in_work()


# memory ----------------------------------------------------------------------------------------------------------


def test_no_file_outside_the_timeline_holds_a_word_a_label_or_sound(stand_in: StandIn) -> None:
    live(a_month())
    stand_in.does("fail")
    night()
    told = json.loads((Work.of_this_machine().folder / LEARNED_FROM).read_text())
    assert set(told) == {"segments", "from", "to", "since"}
    assert Work.of_this_machine().folder.stat().st_mode & 0o777 == 0o700
    assert (state_dir() / "retrain.log").stat().st_mode & 0o777 == 0o600


def test_the_job_knows_what_the_last_training_knew(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Conditions, "unmet", lambda *_: "")
    monkeypatch.setattr(Conditions, "no_longer", lambda *_: "")
    live(a_month())
    stand_in.does(decides=decision(Verdict.REFUSED))
    job = retrain_job(KEEPING)
    assert job.name == "retrain"
    assert last_attempt(KEEPING) is None
    assert remembered(KEEPING, NIGHT, lambda: job.run(NIGHT)).outcome is Outcome.REFUSED
    assert last_attempt(KEEPING) == LastAttempt(NIGHT, 24)
    assert remembered(KEEPING, NIGHT, lambda: job.run(NIGHT)).outcome is Outcome.NOTHING
    assert last_attempt(KEEPING) == LastAttempt(NIGHT, 24), "nothing was tried the second time"
    stand_in.does("fail")
    live(a_month(6, first_minute=100))
    assert remembered(KEEPING, NIGHT, lambda: job.run(NIGHT)).outcome is Outcome.FAILED
    assert last_attempt(KEEPING) == LastAttempt(NIGHT, 24), "what failed is tried again"


def test_what_could_not_begin_leaves_no_run_and_what_failed_says_why(stand_in: StandIn) -> None:
    live(a_month())

    def wait() -> Result:
        raise NotNow("it rains")

    def fail() -> Result:
        raise TrainingError("it broke")

    with pytest.raises(NotNow):
        remembered(KEEPING, NIGHT, wait)
    with pytest.raises(TrainingError):
        remembered(KEEPING, NIGHT, fail)
    with TimelineReader.open(KEEPING.timeline.database_path(), KEEPING.timeline.keys()) as reader:
        (run,) = reader.job_runs(10)
    assert (run.job, run.outcome, run.reason) == ("retrain", "failed", "it broke")
