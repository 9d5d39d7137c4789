"""Nightly retraining for tests: timelines with kept speech and labels, a person's labelled clips, and a stand-in for the training.

The stand-in is a real process that speaks the protocol of `python -m train nightly`; only its decision is scripted.
It is found first because its folder comes first in PYTHONPATH.
"""

import csv
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from model.audio import SAMPLE_RATE, Int16, float_to_pcm16, read_audio, s_to_samples
from model.bundle_format import (
    LEARNED_FROM_FILE,
    MANIFEST_FILE,
    LabelCounts,
    PersonalTest,
    PromotionDecision,
    PromotionVerdict,
    Recalibration,
    RecallChange,
    RehearsalTest,
    Stage,
    file_checksums,
    find_bundle,
    read_bundle_manifest,
)
from model.emotions import Emotion, Prediction
from model.labelled_segment import LabelKind, LabelledSegment
from monitor.config import Config, PrivacyConfig, RetrainConfig
from monitor.personalization.conditions import CpuLoad, TrainingConditions
from monitor.personalization.retraining import LastAttempt, retrain
from monitor.personalization.training_process import TrainingFolder
from monitor.scheduler.jobs import JobResult
from monitor.storage.feedback import FeedbackStore
from monitor.storage.records import InferenceResult
from monitor.storage.writer import TimelineWriter
from tests.support.bundles import trained
from tests.support.paths import DEMO, ROOT
from tests.support.storage import keys

UTC_ZONE = ZoneInfo("UTC")
EVENING = datetime(2026, 7, 14, 19, tzinfo=UTC)
MIDNIGHT = datetime(2026, 7, 15, tzinfo=UTC)
NIGHT = datetime(2026, 7, 15, 3, tzinfo=UTC)
PACKAGED = read_bundle_manifest(find_bundle("compact"))
KEEPING = Config(privacy=PrivacyConfig(keep_audio=True), retrain=RetrainConfig(min_labels=20, min_new_labels=5))

_MAIN = """
import hashlib, json, os, shutil, signal, sys, time
from pathlib import Path

from model.labelled_segment import read_all

told = json.loads(os.environ["STAND_IN"])
arguments = dict(zip(sys.argv[2::2], sys.argv[3::2]))
out, work = Path(arguments["--out"]), Path(arguments["--work"])
print("learning", file=sys.stderr, flush=True)
got = []
try:
    heard_with, pieces = read_all(sys.stdin.buffer)
    for one in pieces:
        digest = hashlib.sha256(one.pcm.tobytes()).hexdigest()
        got.append([one.segment, one.at.isoformat(), one.emotion, one.kind, one.shown, one.weight, len(one.pcm), digest])
except Exception as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)
work.mkdir(exist_ok=True)
(work / "half.safetensors").write_bytes(b"half")
seen = {
    "command": sys.argv[1],
    "arguments": arguments,
    "got": got,
    "reference": heard_with.reference and heard_with.reference.hex(),
    "prior": heard_with.prior,
    "session": os.getsid(0) == os.getpid(),
    "environment": dict(os.environ),
    "pid": os.getpid(),
}
Path(told["seen"]).write_text(json.dumps(seen))
do = told.get("do", "")
if do == "hang":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    time.sleep(600)
elif do == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
elif do == "eat":
    eaten = bytearray(700 * 2**20)
    time.sleep(600)
elif do == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
elif do == "fail":
    print("error: the bundle is damaged: mapper.safetensors is not the file it was released with", file=sys.stderr)
    sys.exit(1)
elif do == "raise":
    raise RuntimeError("a bug")
elif do == "babble":
    print("no JSON")
    sys.exit()
time.sleep(told.get("wait_s", 0))
if told.get("made"):
    shutil.copytree(told["made"], out)
print(json.dumps(told["decision"]))
"""


class Said(NamedTuple):
    """A piece of speech `minute` minutes after EVENING. shown: the estimate, None where it was not judged. said: None where nothing was."""

    minute: float
    shown: Emotion | None = Emotion.NEUTRAL
    said: Emotion | None = None
    kept: bool = True
    seconds: float = 2.0


def sound(number: int, seconds: float = 2.0) -> bytes:
    """Another one for each number."""
    return np.random.default_rng(number).integers(-3000, 3000, round(16_000 * seconds), np.int16).tobytes()


def words(at: datetime = MIDNIGHT) -> FeedbackStore:
    """What the person says at that moment."""
    return FeedbackStore.open(KEEPING.timeline.database_path(), UTC_ZONE, keys(), lambda: at)


def write_kept_speech(pieces: Iterable[Said], checkins: Iterable[tuple[float, Emotion]] = (), said_at: datetime = MIDNIGHT) -> list[int]:
    """Store pieces and check-ins, each of the latter at a minute after EVENING; returns the pieces' numbers."""
    path, numbers = KEEPING.timeline.database_path(), []
    with closing(TimelineWriter.open(path, UTC_ZONE, keys())) as timeline, words(said_at) as mouth:
        for place, piece in enumerate(pieces):
            start = EVENING + timedelta(minutes=piece.minute)
            samples = (20_000_000 * place, 20_000_000 * place + round(16_000 * piece.seconds))
            time_range = {"start_at": start, "end_at": start + timedelta(seconds=piece.seconds)}
            number = timeline.add_segment(start_sample=samples[0], end_sample=samples[1], sound=sound(place, piece.seconds), **time_range)
            numbers.append(number)
            if piece.shown is not None:
                result = InferenceResult(Prediction({piece.shown: 0.75, Emotion.OTHER: 0.25}, False, PACKAGED.version))
                timeline.judge({number: result}, keep_audio=piece.kept)
            if piece.said is not None and piece.said is piece.shown:
                mouth.confirm(number)
            elif piece.said is not None:
                mouth.correct(number, piece.said)
        for minute, emotion in checkins:
            mouth.check_in(EVENING + timedelta(minutes=minute), -0.5, emotion)
    return numbers


def a_month(count: int = 24, first_minute: float = 0) -> list[Said]:
    """So many pieces, a minute apart: every third confirmed, the others corrected."""
    sad, neutral = Emotion.SAD, Emotion.NEUTRAL
    return [Said(first_minute + n, sad if n % 3 else neutral, neutral) for n in range(count)]


def decision(verdict: PromotionVerdict, **changed: Any) -> PromotionDecision:
    """One with all its figures, of a training that began with compact."""
    fields: dict[str, Any] = {
        "verdict": verdict,
        "reason": "it answers more as you do",
        "parent": PACKAGED.version,
        "version": "compact-5eed5eed" if verdict is PromotionVerdict.PROMOTED else None,
        "learned": LabelCounts(corrections=16, confirmations=8, checkins=0, trained=24, held_out=24, left_out={"its sound is silent": 1}),
        "own": PersonalTest(
            segments=24, right_before=8, right_after=15, gained=8, lost=1, net_gain=5.5, p_no_better=0.031, p_by_chance=0.0004, alpha=0.05
        ),
        "public": RehearsalTest(
            clips=240,
            speakers=4,
            uar_before=0.704,
            uar_after=0.699,
            change_at_least=-0.011,
            margin=0.28,
            classes={
                Emotion.SAD: RecallChange(clips=32, before=0.75, after=0.78),
                Emotion.FEAR: RecallChange(clips=32, before=0.7, after=0.66),
            },
        ),
        "calibration": Recalibration(
            temperature_before=1.2,
            temperature_after=1.1,
            unsure_below_before=0.6,
            unsure_below_after=0.58,
            sure_share_before=0.61,
            sure_share_after=0.64,
        ),
        "stage": Stage.WEIGHTS,
        "letter_bias": {Emotion.SAD: -0.62, Emotion.NEUTRAL: 0.62},
        "steps": 30,
        "seconds": 423.0,
    }
    return PromotionDecision(**{**fields, **changed})


def new_bundle(folder: Path, seed: int = 1, segments: Iterable[int] = range(1, 200)) -> Path:
    """What a night makes of compact, as far as the monitor looks at it: small, and it cannot be loaded."""
    trained(folder, seed, told=False)
    told = {"segments": list(segments), "from": EVENING.isoformat(), "to": MIDNIGHT.isoformat()}
    (folder / LEARNED_FROM_FILE).write_text(json.dumps(told))
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | {"files": file_checksums(folder)}))
    return folder


@dataclass
class StandIn:
    """The training that does what it is told, from now on."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def does(self, what: str = "", decides: PromotionDecision | None = None, made: Path | None = None) -> None:
        """what: hang, deaf, eat, crash, fail, raise, babble; or it decides, and hands out the bundle `made`."""
        package = self.folder / "instead" / "train"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(_MAIN)
        before = os.environ.get("PYTHONPATH", "").removeprefix(f"{package.parent}:")
        root = ROOT
        self.monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{before or root}")
        self._seen.unlink(missing_ok=True)
        told = {"do": what, "seen": str(self._seen), "made": str(made or ""), "decision": decides and decides.model_dump(mode="json")}
        self.monkeypatch.setenv("STAND_IN", json.dumps(told))
        # On a machine that tests, a process of the lowest rank would wait for ever; a test of its own sees to the rank.
        self.monkeypatch.setattr("monitor.personalization.training_process._low_priority_command", lambda _cores: [])

    def thinks(self, seconds: float) -> None:
        """Before it decides."""
        self.monkeypatch.setenv("STAND_IN", json.dumps({**json.loads(os.environ["STAND_IN"]), "wait_s": seconds}))

    @property
    def began(self) -> bool:
        """Whether it has read all its evidence."""
        return self._seen.exists()

    @property
    def seen(self) -> dict[str, Any]:
        """What it was given, and what it was when it ran last."""
        told: dict[str, Any] = json.loads(self._seen.read_text())
        return told

    @property
    def _seen(self) -> Path:
        return self.folder / "seen.json"


class Times(NamedTuple):
    """Processor times as psutil tells them, in seconds."""

    user: float
    nice: float
    system: float
    idle: float


def quiet(config: Config, folder: Path) -> TrainingConditions:
    """A machine on mains power with nothing to do."""
    times = iter(Times(0, 0, 0, 10.0 * number) for number in range(1000))
    return TrainingConditions(config, folder, battery=lambda: None, load=CpuLoad(lambda: next(times)), rest=lambda _seconds: None)


def night(
    config: Config = KEEPING, *, dry_run: bool = False, last: LastAttempt | None = None, stop: Event | None = None, **more: Any
) -> JobResult:
    told: list[str] = []
    work = TrainingFolder.of_this_machine().folder
    asked = {"now": NIGHT, "regardless": False, "conditions": quiet(config, work), "tell": told.append, **more}
    return retrain(config, dry_run=dry_run, stop=stop or Event(), last=last, **asked)


def promoting(stand_in: StandIn, folder: Path, seed: int = 1, **changed: Any) -> str:
    """The training makes a bundle that is better; returns its version."""
    made = new_bundle(folder / f"made{seed}", seed)
    version = read_bundle_manifest(made).version
    stand_in.does(decides=decision(PromotionVerdict.PROMOTED, version=version, **changed), made=made)
    return version


def left_in_work() -> list[str]:
    folder = TrainingFolder.of_this_machine().folder
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


def replace_section(config: Config, **sections: object) -> Config:
    return config.model_copy(update=sections)


BEGIN = datetime(2026, 7, 1, 8, tzinfo=UTC)


def clips(number: int) -> list[Int16]:
    """As many different pieces of speech as asked for, from the demo: its clips, then parts of them."""
    audio = read_audio(DEMO)
    with DEMO.with_suffix(".tsv").open(encoding="utf-8", newline="") as file:
        spans = [(float(row["start_s"]), float(row["end_s"])) for row in csv.DictReader(file, delimiter="\t")]
    found = [audio[s_to_samples(start) : s_to_samples(end)] for start, end in spans]
    rng = np.random.default_rng(0)
    while len(found) < number:
        whole = found[int(rng.integers(len(spans)))]
        cut = int(rng.integers(SAMPLE_RATE // 4))
        found.append(whole[cut:] * np.float32(rng.uniform(0.5, 1)))
    return [float_to_pcm16(clip) for clip in found[:number]]


def evidence(pcms: Sequence[Int16], shown: Sequence[Emotion], say: Callable[[int, Emotion], Emotion]) -> list[LabelledSegment]:
    """A segment an hour. say: what the person says of segment `number`, to which `shown` was shown."""
    pieces = []
    for number, (pcm, answer) in enumerate(zip(pcms, shown, strict=True)):
        word = say(number, answer)
        kind = LabelKind.CONFIRMATION if word is answer else LabelKind.CORRECTION
        pieces.append(LabelledSegment(number + 1, BEGIN + timedelta(hours=number), pcm, word, kind, answer))
    return pieces
