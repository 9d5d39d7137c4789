"""One night from the monitor's side, with a stand-in for the training: conditions, decision, promotion, failure."""

import json
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import numpy as np
import psutil
import pytest

from model.bundle_format import LEARNED_FROM_FILE, PromotionVerdict, find_bundle, read_bundle_manifest
from model.emotions import Emotion, Prediction
from model.errors import TrainingError
from model.voice_reference import VoiceSums
from monitor.bundles.library import BundleLibrary
from monitor.bundles.registry import BundleRegistry
from monitor.config import Config, EngineConfig, PrivacyConfig, RetrainConfig
from monitor.control import ControlServer
from monitor.paths import DatabaseFiles, state_dir
from monitor.personalization.conditions import CpuLoad, TrainingConditions
from monitor.personalization.retraining import LastAttempt, last_attempt, retrain_job, run_recorded
from monitor.scheduler.jobs import ConditionsNotMet, JobOutcome, JobResult
from monitor.storage.reader import TimelineReader
from monitor.storage.records import InferenceResult, VoiceContribution
from monitor.storage.writer import TimelineWriter
from tests.support.bundles import Monitor
from tests.support.nights import (
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
    left_in_work,
    new_bundle,
    night,
    promoting,
    replace_section,
    sound,
    while_it_trains,
    write_kept_speech,
)
from tests.support.storage import keys

SAD, NEUTRAL, HAPPY = Emotion.SAD, Emotion.NEUTRAL, Emotion.HAPPY


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return StandIn(tmp_path, monkeypatch)


# is there enough -------------------------------------------------------------------------------------------------


def test_without_kept_sound_there_is_nothing_to_learn_from(stand_in: StandIn) -> None:
    write_kept_speech(a_month())
    result = night(replace_section(KEEPING, privacy=PrivacyConfig()))
    assert result.outcome is JobOutcome.NOTHING
    assert "keep_audio = true" in result.reason


def test_too_few_labels_are_told_with_what_was_left_out(stand_in: StandIn) -> None:
    write_kept_speech([*a_month(19), Said(30, SAD, NEUTRAL, kept=False), Said(31, SAD, Emotion.CONTEMPT)])
    result = night()
    assert result.outcome is JobOutcome.NOTHING
    assert result.reason == (
        "you corrected or confirmed 19 pieces of speech that can be learned from, and 20 are needed ([retrain] min_labels);"
        " left out were 1: no sound of it was kept; 1: the model cannot answer that emotion"
    )
    assert (result.details["corrections"], result.details["confirmations"]) == (12, 7)
    assert "decision" not in result.details


def test_each_training_needs_labels_that_the_last_one_did_not_know(stand_in: StandIn) -> None:
    stand_in.does(decides=decision(PromotionVerdict.REFUSED))
    write_kept_speech(a_month(24))
    first = night()
    last = LastAttempt.of(NIGHT, first.details)
    assert last == LastAttempt(NIGHT, 24)
    second = night(last=last)
    assert second.outcome is JobOutcome.NOTHING
    assert second.reason.startswith("0 of your 24 corrections and confirmations are new since the last training, and 5 are needed")
    assert night(last=last, dry_run=True).outcome is JobOutcome.REFUSED, "a trial may be repeated: nothing comes of it"


def test_a_clock_that_was_set_back_hides_no_new_label() -> None:
    known = LastAttempt(NIGHT, 24)
    assert known.knew(24, NIGHT - timedelta(hours=1))
    assert not known.knew(25, NIGHT - timedelta(days=300))
    assert not known.knew(3, NIGHT + timedelta(hours=1)), "numbers of erased labels are given again"


# is it the time --------------------------------------------------------------------------------------------------


class Battery:
    def __init__(self, plugged: bool | None) -> None:
        self.power_plugged = plugged


def conditions(battery: Battery | None = None, user: float = 0.0, config: Config = KEEPING) -> TrainingConditions:
    """user: of ten seconds on one processor."""
    folder = state_dir()
    folder.mkdir(parents=True, exist_ok=True)
    times = iter(Times(user * n, 9.0 * n, 0.0, (10 - user) * n) for n in range(1000))
    return TrainingConditions(config, folder, battery=lambda: battery, load=CpuLoad(lambda: next(times)), rest=lambda _s: None)


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
    write_kept_speech([Said(0, SAD)])
    end = EVENING + timedelta(seconds=2)
    assert conditions().spoken(end + timedelta(minutes=4)) == "somebody spoke less than 5 minutes ago ([retrain] when_idle)"
    assert not conditions().spoken(end + timedelta(minutes=6))
    with ControlServer(DatabaseFiles(KEEPING.timeline.database_path()).socket, {"status": lambda _: {"speaking": True}}):
        assert conditions().spoken(NIGHT) == "somebody is speaking ([retrain] when_idle)"


def test_a_disk_without_room_counts_for_everybody() -> None:
    for regardless in (False, True):
        reason = conditions().unmet(NIGHT, 2**60, regardless=regardless)
        assert reason.startswith("only ")
        assert reason.endswith(" are needed; free some space")


def test_the_true_machine_can_be_asked() -> None:
    load = CpuLoad()
    deadline = time.monotonic() + 0.3
    while time.monotonic() < deadline:
        pass
    assert 0 < load.share() <= 1
    folder = state_dir()
    folder.mkdir(parents=True)
    assert isinstance(TrainingConditions(KEEPING, folder).no_mains(), str)


def test_conditions_that_do_not_hold_are_no_failure_and_nothing_is_begun(stand_in: StandIn) -> None:
    write_kept_speech(a_month())
    with pytest.raises(ConditionsNotMet, match="on its battery"):
        night(conditions=conditions(Battery(False)))
    assert not stand_in.began
    assert not left_in_work()


def test_conditions_that_end_while_it_trains_end_it_and_it_can_go_on(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.personalization.retraining._CONDITIONS_EVERY_S", 0.1)
    write_kept_speech(a_month())
    battery = Battery(True)
    stand_in.does("hang")

    def unplug() -> None:
        battery.power_plugged = False

    thread = while_it_trains(stand_in, unplug)
    with pytest.raises(ConditionsNotMet, match=r"on its battery .*; it goes on when that is over"):
        night(conditions=conditions(battery))
    thread.join()
    assert not psutil.pid_exists(stand_in.seen["pid"])
    assert {"weights", LEARNED_FROM_FILE} <= set(left_in_work())


# what comes of it ------------------------------------------------------------------------------------------------


def test_a_better_bundle_is_kept_and_used(stand_in: StandIn, tmp_path: Path) -> None:
    numbers = write_kept_speech(a_month())
    version = promoting(stand_in, tmp_path)
    result = night()
    assert (result.outcome, result.reason) == (JobOutcome.DONE, "it answers more as you do")
    assert BundleRegistry.of(KEEPING).active() == str(state_dir() / "bundles" / version)
    assert [use.why for use in BundleLibrary.of(KEEPING).registry.uses()] == [f"it learned from you: {result.reason}"]
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
    compact = read_bundle_manifest(find_bundle("compact"))
    write_kept_speech(a_month())
    stand_in.does(decides=decision(PromotionVerdict.REFUSED, parent=compact.version))
    assert night(config).outcome is JobOutcome.REFUSED
    assert (stand_in.seen["reference"], stand_in.seen["prior"]) == (None, "balanced")
    sums = VoiceSums(1.0, 2.0, np.arange(8, dtype=np.float32))
    say_to(compact.voice_space, sums)
    say_to("another", VoiceSums(9.0, 60.0, sums.sums))
    assert night(config).outcome is JobOutcome.REFUSED
    assert stand_in.seen["reference"] == sums.to_bytes().hex()


def say_to(voice_space: str | None, sums: VoiceSums) -> None:
    """Some speech from which the monitor learned the person's voice."""
    assert voice_space is not None
    with closing(TimelineWriter.open(KEEPING.timeline.database_path(), UTC_ZONE, keys())) as timeline:
        begin = 10**9
        spoken = {"start_at": NIGHT, "end_at": NIGHT + timedelta(seconds=2)}
        number = timeline.add_segment(start_sample=begin, end_sample=begin + 32_000, sound=sound(99), microphone="desk", **spoken)
        heard = VoiceContribution(voice_space, sums, None)
        timeline.judge({number: InferenceResult(Prediction({Emotion.SAD: 1.0}, False, "compact-1"), None, None, heard)})


def test_a_running_monitor_is_asked_first(stand_in: StandIn, tmp_path: Path) -> None:
    write_kept_speech(a_month())
    version, monitor = promoting(stand_in, tmp_path), Monitor()
    commands = {"use-bundle": monitor.use, "status": lambda _: {"speaking": False}}
    with ControlServer(DatabaseFiles(KEEPING.timeline.database_path()).socket, commands):
        assert night().outcome is JobOutcome.DONE
    assert monitor.using == str(state_dir() / "bundles" / version)


def test_an_engine_that_refuses_the_new_one_keeps_the_old_one_in_use(stand_in: StandIn, tmp_path: Path) -> None:
    write_kept_speech(a_month())
    version = promoting(stand_in, tmp_path)
    monitor = Monitor(refusing="the engine does not take adapters of rank 64")
    commands = {"use-bundle": monitor.use, "status": lambda _: {"speaking": False}}
    with ControlServer(DatabaseFiles(KEEPING.timeline.database_path()).socket, commands):
        result = night()
    assert result.outcome is JobOutcome.FAILED
    assert version in result.reason
    assert "adapters of rank 64" in result.reason
    assert BundleRegistry.of(KEEPING).active() == "compact"


def test_one_that_is_not_shown_to_be_better_is_not_used_and_that_is_no_failure(stand_in: StandIn) -> None:
    write_kept_speech(a_month())
    stand_in.does(decides=decision(PromotionVerdict.REFUSED, reason="2 more of 7 may be luck"))
    result = night()
    assert (result.outcome, result.reason) == (JobOutcome.REFUSED, "2 more of 7 may be luck")
    assert BundleRegistry.of(KEEPING).active() == "compact"
    assert not BundleLibrary.of(KEEPING).all()
    assert not left_in_work()


def test_a_training_that_finds_too_little_has_nothing_to_do(stand_in: StandIn) -> None:
    write_kept_speech(a_month())
    stand_in.does(decides=decision(PromotionVerdict.TOO_LITTLE, reason="all say the same emotion"))
    assert night().outcome is JobOutcome.NOTHING


def test_a_trial_uses_nothing_and_leaves_nothing(stand_in: StandIn, tmp_path: Path) -> None:
    write_kept_speech(a_month())
    promoting(stand_in, tmp_path)
    result = night(dry_run=True)
    assert (result.outcome, result.details["dry_run"]) == (JobOutcome.DONE, True)
    assert BundleRegistry.of(KEEPING).active() == "compact"
    assert not BundleLibrary.of(KEEPING).all()
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
    write_kept_speech(a_month())
    stand_in.does(does)
    result = night()
    assert result.outcome is JobOutcome.FAILED
    assert reason in result.reason
    assert BundleRegistry.of(KEEPING).active() == "compact"
    assert set(left_in_work()) == {"failed", "weights", LEARNED_FROM_FILE}
    assert night().outcome is JobOutcome.FAILED
    assert not left_in_work(), "what failed twice is not gone on with"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"version": "compact-00000000"}, "decided about the model compact-00000000"),
        ({"parent": "compact-11111111"}, "began with the model compact-11111111 instead of"),
    ],
)
def test_a_decision_about_something_else_is_not_followed(stand_in: StandIn, tmp_path: Path, changed: dict[str, str], reason: str) -> None:
    write_kept_speech(a_month())
    made = new_bundle(tmp_path / "made")
    fields = {"version": read_bundle_manifest(made).version, **changed}
    stand_in.does(decides=decision(PromotionVerdict.PROMOTED, **fields), made=made)
    result = night()
    assert result.outcome is JobOutcome.FAILED
    assert reason in result.reason
    assert BundleRegistry.of(KEEPING).active() == "compact"


def test_a_promise_without_a_bundle_and_one_that_could_not_be_forgotten_are_not_followed(stand_in: StandIn, tmp_path: Path) -> None:
    write_kept_speech(a_month())
    stand_in.does(decides=decision(PromotionVerdict.PROMOTED))
    assert "made no model that can be used" in night().reason
    made = new_bundle(tmp_path / "made", segments=[999])
    (made / LEARNED_FROM_FILE).unlink()
    stand_in.does(decides=decision(PromotionVerdict.PROMOTED, version=read_bundle_manifest(made).version), made=made)
    assert "does not say what it learned from" in night().reason


def test_a_tampered_bundle_is_not_used(stand_in: StandIn, tmp_path: Path) -> None:
    write_kept_speech(a_month())
    version = promoting(stand_in, tmp_path)
    with (tmp_path / "made1" / "mapper.safetensors").open("r+b") as file:
        file.seek(200)
        file.write(b"x")
    result = night()
    assert result.outcome is JobOutcome.FAILED
    assert "damaged" in result.reason
    assert version
    assert BundleRegistry.of(KEEPING).active() == "compact"


def test_another_bundle_that_came_into_use_meanwhile_stays(stand_in: StandIn, tmp_path: Path) -> None:
    write_kept_speech(a_month())
    other = BundleLibrary.of(KEEPING).add(new_bundle(tmp_path / "other", 9))
    promoting(stand_in, tmp_path)
    stand_in.thinks(2.0)
    thread = while_it_trains(stand_in, lambda: BundleLibrary.of(KEEPING).registry.activate(str(other), "you chose it", NIGHT))
    result = night()
    thread.join()
    assert result.outcome is JobOutcome.FAILED
    assert "was put in use while" in result.reason
    assert BundleRegistry.of(KEEPING).active() == str(other)


# the end of it ---------------------------------------------------------------------------------------------------


# forgetting ------------------------------------------------------------------------------------------------------


# memory ----------------------------------------------------------------------------------------------------------


def test_the_job_knows_what_the_last_training_knew(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingConditions, "unmet", lambda *_: "")
    monkeypatch.setattr(TrainingConditions, "no_longer", lambda *_: "")
    write_kept_speech(a_month())
    stand_in.does(decides=decision(PromotionVerdict.REFUSED))
    job = retrain_job(KEEPING)
    assert job.name == "retrain"
    assert last_attempt(KEEPING) is None
    assert run_recorded(KEEPING, NIGHT, lambda: job.run(NIGHT)).outcome is JobOutcome.REFUSED
    assert last_attempt(KEEPING) == LastAttempt(NIGHT, 24)
    assert run_recorded(KEEPING, NIGHT, lambda: job.run(NIGHT)).outcome is JobOutcome.NOTHING
    assert last_attempt(KEEPING) == LastAttempt(NIGHT, 24), "nothing was tried the second time"
    stand_in.does("fail")
    write_kept_speech(a_month(6, first_minute=100))
    assert run_recorded(KEEPING, NIGHT, lambda: job.run(NIGHT)).outcome is JobOutcome.FAILED
    assert last_attempt(KEEPING) == LastAttempt(NIGHT, 24), "what failed is tried again"


def test_what_could_not_begin_leaves_no_run_and_what_failed_says_why(stand_in: StandIn) -> None:
    write_kept_speech(a_month())

    def wait() -> JobResult:
        raise ConditionsNotMet("it rains")

    def fail() -> JobResult:
        raise TrainingError("it broke")

    with pytest.raises(ConditionsNotMet):
        run_recorded(KEEPING, NIGHT, wait)
    with pytest.raises(TrainingError):
        run_recorded(KEEPING, NIGHT, fail)
    with TimelineReader.open(KEEPING.timeline.database_path(), KEEPING.timeline.keys()) as reader:
        (run,) = reader.job_runs(10)
    assert (run.job, run.outcome, run.reason) == ("retrain", "failed", "it broke")
