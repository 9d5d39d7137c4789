"""The reference of a voice on its way to the judging process: each segment is heard against its own, whatever happens in between."""

import os
import signal
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from model.audio import Float32, Int16, float_to_pcm16, pcm16_to_float
from model.bundle import Bundle, open_bundle
from model.emotions import EVERYDAY
from model.predictor import Predictor, SpeechInput
from model.voice_reference import VoiceSums, voice_shift
from monitor.bundles.registry import BundleRegistry
from monitor.config import Config, EngineConfig
from monitor.daemon.client import format_status
from monitor.daemon.live_view import PlainView
from monitor.daemon.recorder import REFRESH_AFTER_S, REFRESH_AFTER_SEGMENTS, Recorder, VoiceReferenceCache
from monitor.daemon.status import DaemonStatus
from monitor.inference.engines.transformers import TransformersEngine
from monitor.inference.protocol import (
    BundleSwitched,
    Dropped,
    EngineChanged,
    EngineState,
    LoadBundle,
    Predicted,
    PredictRequest,
    SetReference,
    SupervisorEvent,
)
from monitor.inference.worker import WorkerInbox
from monitor.storage.reader import TimelineReader
from monitor.storage.records import InferenceResult, SegmentRecord, VoiceReferenceSums
from monitor.storage.voice_reference import erase_voice_references
from monitor.storage.writer import TimelineWriter
from tests.support.bundle_variants import normalising, variant_of_packaged
from tests.support.bundles import NANO
from tests.support.inference import UTC_ZONE, DrivenSupervisor, never, wait_until, worker_pid
from tests.support.spoken_timeline import FIRST, HOUR, SpokenTimeline
from tests.support.storage import keys
from tests.support.tiny_audio_models import HIGH, HIGH_HZ, LOW, LOW_HZ, tiny_whisper, tone

QUICK = EngineConfig(kind="transformers", bundle="compact", max_batch=4)
PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """One that normalises, what a night might make of it, and one with another population."""
    folder = tmp_path_factory.mktemp("bundles")
    first = open_bundle(normalising(folder / "first")).under(EVERYDAY)
    night = open_bundle(normalising(folder / "night", adapter=3), first).under(EVERYDAY)
    other = open_bundle(normalising(folder / "other", seed=9), first).under(EVERYDAY)
    assert first.voice_space == night.voice_space != other.voice_space
    return {"first": first, "night": night, "other": other}


@pytest.fixture(scope="module")
def ten(utterances: list[Int16]) -> list[Int16]:
    return [pcm[:32_000] for pcm in utterances[:10]]


def reference(bundle: Bundle, number: int) -> VoiceReferenceSums:
    """Of somebody whose voice lies far from the population's."""
    assert bundle.reference_settings is not None
    assert bundle.voice_space is not None
    apart = np.random.default_rng(number).normal(size=len(bundle.reference_settings.population_mean)).astype(np.float32)
    held = np.full(len(bundle.manifest.letters), 50 / len(bundle.manifest.letters), np.float32)
    sums = VoiceSums(50.0, 200.0, np.concatenate([50 * (bundle.reference_settings.population_mean + apart), held]))
    return VoiceReferenceSums(bundle.voice_space, f"version-{number}", sums.to_bytes())


def said(bundle: Bundle, pcm: Int16, held: VoiceReferenceSums | None, words: str | None = None) -> Float32:
    """What a fresh engine says of a segment against a reference, with its words where the bundle is asked with them."""
    assert bundle.reference_settings is not None
    shift = None if held is None else voice_shift(VoiceSums.from_bytes(held.sums), bundle.reference_settings)
    (answer,) = Predictor(bundle, TransformersEngine(bundle)).predict([SpeechInput(pcm16_to_float(pcm), words)], shift)
    assert answer.prediction is not None
    return np.array(list(answer.prediction.posterior.values()), np.float32)


class Heard:
    """A supervisor, what it reported, and for each segment the reference that it is to be heard against."""

    def __init__(self, folder: Path, bundle: Bundle, transcriber: str = "") -> None:
        self.sounds: dict[int, Int16] = {}
        self.references: dict[int, VoiceReferenceSums | None] = {}
        self.spaces: list[str] = []
        self.results: dict[int, InferenceResult] = {}
        self.states: list[EngineState] = []
        self.outcomes: list[str] = []
        config = QUICK.model_copy(update={"bundle": str(bundle.folder), "transcriber": transcriber})
        self.supervisor = DrivenSupervisor(config, folder, self.sounds.get, self._handle, self._reference)

    def submit(self, pcm: Int16, held: VoiceReferenceSums | None) -> int:
        entry = len(self.sounds)
        self.sounds[entry], self.references[entry] = pcm, held
        self.supervisor.submit(entry)
        return entry

    def until_answered(self) -> None:
        wait_until(lambda: len(self.results) == len(self.sounds), PATIENCE_S)

    def _reference(self, entry: int, space: str) -> VoiceReferenceSums | None:
        self.spaces.append(space)
        held = self.references[entry]
        return held if held is not None and held.voice_space == space else None

    def _handle(self, event: SupervisorEvent) -> None:
        match event:
            case Predicted(results):
                self.results |= results
            case Dropped(segment_id, reason):
                pytest.fail(f"{segment_id}: {reason}")
            case EngineChanged(state):
                self.states.append(state)
            case BundleSwitched(version=version):
                self.outcomes.append(version)


def check(heard: Heard, bundle: Bundle, entries: range) -> None:
    """Each answer is that of the bundle for the reference it names, which is the one that was meant."""
    for entry in entries:
        result, held = heard.results[entry], heard.references[entry]
        against = result.voice_contribution
        assert against is not None
        assert (against.voice_space, against.version) == (bundle.voice_space, held and held.version), entry
        assert against.sums.segments == 1.0
        found = np.array(list(result.prediction.posterior.values()))
        assert found == pytest.approx(said(bundle, heard.sounds[entry], held), abs=0.01), entry


@pytest.mark.slow
def test_every_segment_is_heard_against_its_own_reference_across_a_crash_and_other_bundles(
    bundles: dict[str, Bundle], ten: list[Int16], tmp_path: Path
) -> None:
    first, night, other = bundles["first"], bundles["night"], bundles["other"]
    one, two, foreign = reference(first, 1), reference(first, 2), reference(other, 3)
    assert not np.allclose(said(first, ten[0], one), said(first, ten[0], two), atol=0.02), "it makes a difference here"
    heard = Heard(tmp_path, first)
    for number, held in enumerate((one, one, None, two, one, None)):
        heard.submit(ten[number], held)
    heard.supervisor.start()
    heard.until_answered()
    check(heard, first, range(6))

    os.kill(worker_pid(heard.supervisor), signal.SIGKILL)
    wait_until(lambda: heard.states.count(EngineState.LOADING) == 2, PATIENCE_S)
    heard.submit(ten[6], two)
    heard.submit(ten[7], None)
    heard.until_answered()
    check(heard, first, range(6, 8))

    heard.submit(ten[0], two)
    heard.until_answered()
    heard.supervisor.use(str(night.folder))
    wait_until(lambda: len(heard.outcomes) == 1, PATIENCE_S)
    heard.submit(ten[8], two)
    heard.until_answered()
    check(heard, night, range(9, 10))
    assert heard.results[9].prediction.bundle_version == night.version

    heard.supervisor.use(str(other.folder))
    wait_until(lambda: len(heard.outcomes) == 2, PATIENCE_S)
    heard.submit(ten[9], foreign)
    heard.until_answered()
    check(heard, other, range(10, 11))
    assert set(heard.spaces) == {first.voice_space, other.voice_space}

    heard.supervisor.drop_reference()
    wait_until(lambda: heard.supervisor._held_reference is None, PATIENCE_S)
    heard.references[heard.submit(ten[0], foreign)] = None
    heard.until_answered()
    check(heard, other, range(11, 12))
    heard.supervisor.finish(never)


@pytest.mark.slow
def test_a_bundle_that_is_asked_with_words_hears_each_segment_against_its_reference_too(tmp_path: Path) -> None:
    # Like nano, whose answers the words change more than compact's.
    plain = open_bundle(normalising(tmp_path / "plain", base=NANO))
    worded = open_bundle(normalising(tmp_path / "worded", about={"strategy": "transcript-prefix"}, base=NANO), plain)
    heard = Heard(tmp_path, plain, str(tiny_whisper(tmp_path / "whisper")))
    sounds = [float_to_pcm16(tone(hz)) for hz in (LOW_HZ, HIGH_HZ)]
    held = reference(worded, 1)
    answers = [said(worded, sounds[0], *asked) for asked in ((held, LOW), (None, LOW), (held, ""))]
    assert not any(np.allclose(answers[0], other, atol=0.02) for other in answers[1:]), "words and reference both make a difference here"
    heard.submit(sounds[0], held)
    heard.supervisor.start()
    heard.until_answered()
    check(heard, plain, range(1))
    assert heard.results[0].transcript is None

    heard.supervisor.use(str(worded.folder))
    wait_until(lambda: len(heard.outcomes) == 1, PATIENCE_S)
    assert heard.supervisor._held_reference == held, "it is of the same voice space"
    for pcm, against in ((sounds[0], held), (sounds[1], held), (sounds[0], None)):
        heard.submit(pcm, against)
    heard.until_answered()
    for entry, words in ((1, LOW), (2, HIGH), (3, LOW)):
        result, against = heard.results[entry], heard.references[entry]
        assert result.transcript == words
        assert result.voice_contribution is not None
        assert result.voice_contribution.version == (against and against.version)
        found = np.array(list(result.prediction.posterior.values()))
        assert found == pytest.approx(said(worded, heard.sounds[entry], against, words), abs=0.01), entry
    heard.supervisor.finish(never)


@pytest.mark.slow
def test_a_bundle_without_a_use_for_it_is_told_of_none(ten: list[Int16], tmp_path: Path) -> None:
    plain = variant_of_packaged(tmp_path / "plain", about={"normalisation": None, "training_prior": None})
    heard = Heard(tmp_path, open_bundle(plain))
    heard.submit(ten[0], VoiceReferenceSums("space", "version", b"whatever"))
    heard.supervisor.start()
    heard.supervisor.finish(never)
    assert heard.results[0].voice_contribution is None
    assert heard.spaces == []


def test_a_reference_keeps_its_place_among_the_questions_and_another_bundle_comes_first() -> None:
    inbox, asks = WorkerInbox(), [PredictRequest(number, np.zeros(1, np.int16)) for number in range(4)]
    held = SetReference(VoiceReferenceSums("space", "version", b""))
    for message in (asks[0], asks[1], held, asks[2], LoadBundle("compact"), asks[3]):
        inbox.put(message)
    taken = [inbox.take(64) for _ in range(4)]
    assert taken == [LoadBundle("compact"), [asks[0], asks[1]], held, [asks[2], asks[3]]]


# the recorder ----------------------------------------------------------------------------------------------------


class Day:
    """A recorder on this test's timeline, with a real judging process."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self.path = folder / "timeline.db"
        self.timeline = TimelineWriter.open(self.path, UTC_ZONE, keys())
        self.status = DaemonStatus("a test", live=True)
        config = Config(engine=QUICK.model_copy(update={"bundle": str(bundle.folder), "max_batch": 1}))
        view = PlainView(Console(quiet=True), UTC_ZONE)
        registry = BundleRegistry(config.engine.bundle, folder / "bundles.json")
        self.recorder = Recorder(config, self.timeline, registry, folder / "engine.log", self.status, view)

    def hear(self, pcm: Int16, at: datetime, microphone: str | None) -> None:
        self.recorder.microphone = microphone
        self.recorder.segment(int((at - FIRST).total_seconds()) * 16_000, pcm, at, at + timedelta(seconds=len(pcm) / 16_000))

    def entries(self) -> list[SegmentRecord]:
        with closing(TimelineReader.open(self.path, keys())) as reader:
            return reader.segments_between(FIRST, FIRST + 9 * HOUR)


@pytest.mark.slow
def test_what_is_said_is_learned_used_soon_and_after_a_restart(bundles: dict[str, Bundle], ten: list[Int16], tmp_path: Path) -> None:
    bundle = bundles["first"]
    day = Day(tmp_path, bundle)
    day.hear(ten[0], FIRST, "desk")
    day.recorder.start()
    wait_until(lambda: day.status.judged == 1, PATIENCE_S)
    day.hear(ten[1], FIRST + timedelta(minutes=1), "desk")
    wait_until(lambda: day.status.judged == 2, PATIENCE_S)
    known = day.status.voice
    assert known is not None
    assert (known.segments, known.frozen) == (2, False)
    assert "Voice       still learning your voice: " in format_status({**day.status.as_json(), "pid": 1}, UTC_ZONE)
    held = day.timeline.reference_sums(known.version)
    assert held is not None
    day.recorder.finish(lambda: False)
    day.timeline.close()
    first, second = day.entries()
    assert first.prediction is not None
    assert second.prediction is not None
    assert first.voice_version == second.voice_version == known.version
    posteriors = [np.array(list(entry.prediction.posterior.values())) for entry in (first, second) if entry.prediction]
    assert posteriors[0] == pytest.approx(said(bundle, ten[0], None), abs=0.01)
    alone = VoiceSums.from_bytes(held.sums).sums - _mean(bundle, ten[1])
    one = VoiceReferenceSums(held.voice_space, held.version, VoiceSums(1.0, 2.0, alone).to_bytes())
    assert posteriors[1] == pytest.approx(said(bundle, ten[1], one), abs=0.01), "what the first one added is used for the second"

    # The next start, with what waited for it: it was heard through the desk's microphone, though another one is heard now.
    again = Day(tmp_path, bundle)
    again.hear(ten[2], FIRST + timedelta(minutes=2), "desk")
    again.hear(ten[3], FIRST + timedelta(minutes=3), None)
    again.recorder.microphone = "headset"
    again.recorder.start()
    wait_until(lambda: again.status.judged == 2, PATIENCE_S)
    again.recorder.finish(lambda: False)
    third, recording = again.entries()[2:]
    assert third.prediction is not None
    assert recording.prediction is not None
    assert np.array(list(third.prediction.posterior.values())) == pytest.approx(said(bundle, ten[2], held), abs=0.01)
    assert np.array(list(recording.prediction.posterior.values())) == pytest.approx(said(bundle, ten[3], None), abs=0.01)
    assert (third.voice_version, recording.voice_version) == (known.version, None)
    assert again.status.voice is None, "nothing is known of the headset's voice"
    assert again.status.as_json()["voice"]["state"] == "learning"
    again.timeline.close()


def _mean(bundle: Bundle, pcm: Int16) -> Float32:
    (answer,) = Predictor(bundle, TransformersEngine(bundle)).predict([SpeechInput(pcm16_to_float(pcm))])
    assert answer.sums is not None
    return answer.sums.sums


# what is read of the timeline, and when ---------------------------------------------------------------------------


def test_a_reference_that_is_learned_is_read_anew_after_some_segments_or_minutes() -> None:
    now, spoken = 1000.0, SpokenTimeline()
    memory = VoiceReferenceCache(spoken.timeline, lambda: now)
    (first,) = spoken.say(FIRST)
    begun = memory.reference(first, "space")
    assert begun is not None
    assert memory.reference(first, "another") is None
    spoken.say(FIRST + HOUR, 3)
    memory.learned(3)
    assert memory.reference(first, "space") is begun
    memory.learned(REFRESH_AFTER_SEGMENTS - 3)
    grown = memory.reference(first, "space")
    assert grown is not None
    assert (grown.version, VoiceSums.from_bytes(grown.sums).segments) == (begun.version, 4.0)
    spoken.say(FIRST + 2 * HOUR)
    now += REFRESH_AFTER_S
    later = memory.reference(first, "space")
    assert later is not None
    assert VoiceSums.from_bytes(later.sums).segments == 5.0
    spoken.timeline.close()


def test_a_reference_that_is_frozen_renewed_or_erased_in_part_is_read_anew_at_once() -> None:
    spoken = SpokenTimeline()
    memory = VoiceReferenceCache(spoken.timeline, lambda: 0.0)
    (first,) = spoken.say(FIRST)
    learning = memory.reference(first, "space")
    spoken.days(5)
    frozen = memory.reference(first, "space")
    assert learning is not None
    assert frozen is not None
    assert frozen.version != learning.version
    assert frozen.sums == spoken.sums()
    erase_voice_references(spoken.path, keys(), "space", None)
    assert memory.reference(first, "space") is None
    spoken.timeline.close()
