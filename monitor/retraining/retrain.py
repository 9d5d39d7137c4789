"""One retraining from beginning to end: is there enough to learn from, is it the time, train, and use the new bundle if it is better.

Whatever happens, the bundle in use stays in use until a better one is; why, is said. Knows no schedule and no terminal.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

from pydantic import ValidationError

from model.decision import Decision, Verdict
from model.errors import BundleError, EmosllmError, TimelineError, TrainingError
from model.evidence import HeardWith, Kind
from model.manifest import BundleManifest, find_bundle, read_manifest
from monitor.config import Config, RetrainConfig, state_dir
from monitor.jobs.job import NotNow, Outcome, Result
from monitor.judging.retirement import learned_from
from monitor.library import Library, go_live
from monitor.look import in_use_of
from monitor.retraining.conditions import Conditions
from monitor.retraining.evidence import Material, Outdated, gather, refuse_outdated, send
from monitor.retraining.process import Halted, TrainingProcess
from monitor.retraining.reference import current_reference_sums
from monitor.retraining.telling import left_out_words, material_words
from monitor.retraining.work import Work
from monitor.store.backup import Backups
from monitor.store.lock import taking_turns

LOG = "retrain.log"

_CONDITIONS_EVERY_S, _EVIDENCE_EVERY_S = 30.0, 20.0
_NO_SOUND = "no sound is kept, so there is nothing to learn from: set [privacy] keep_audio = true to keep it, encrypted, on this machine"
_NEEDS_WORDS = "{} is asked with the words of what is said, and nights learn from sound alone: it stays as it is"
_STOPPED = "it was stopped, and goes on next time"


@dataclass(frozen=True, slots=True)
class LastAttempt:
    """The last training that came to a decision. at: when it began, UTC. highest: the highest number of a correction that it knew."""

    at: datetime
    highest: int

    @classmethod
    def of(cls, at: datetime, details: Mapping[str, Any] | None) -> "LastAttempt | None":
        """From what was remembered of a run that did not fail; None when it came to no decision."""
        if not details or "decision" not in details:
            return None
        return cls(at, int(details.get("highest", 0)))

    def knew(self, said: int, said_at: datetime) -> bool:
        """Numbers grow whatever the clock does; but those that were erased last are given again."""
        return said <= self.highest and said_at <= self.at


def retrain(
    config: Config,
    *,
    now: datetime,
    regardless: bool,
    dry_run: bool,
    tell: Callable[[str], None],
    stop: Event,
    last: LastAttempt | None = None,
    conditions: Conditions | None = None,
) -> Result:
    """Learn from what there is. now: aware UTC. tell: is given progress in words, from any thread. stop: ends it in good order.

    regardless: of power and of what else the machine does. dry_run: train and decide, and use nothing. last: what is known already.
    Raises NotNow when the conditions do not hold, or hold no longer, and EmosllmError when it could not even begin.
    """
    work = Work.of_this_machine()
    with work.held():
        return _Retraining(config, now, regardless, dry_run, tell, stop, work, conditions or Conditions(config, work.folder)).run(last)


@dataclass(slots=True)
class _Retraining:
    config: Config
    now: datetime
    regardless: bool
    dry_run: bool
    tell: Callable[[str], None]
    stop: Event
    work: Work
    conditions: Conditions

    def run(self, last: LastAttempt | None) -> Result:
        if not self.config.privacy.keep_audio:
            return Result(Outcome.NOTHING, _NO_SOUND)
        folder = find_bundle(in_use_of(self.config))
        manifest = read_manifest(folder)
        if manifest.strategy.needs_transcript:
            return Result(Outcome.NOTHING, _NEEDS_WORDS.format(manifest.version))
        material = gather(self.config, manifest.letters)
        reason = too_little(material, self.config.retrain, None if self.dry_run else last)
        if reason:
            return Result(Outcome.NOTHING, reason, _details(material, manifest))
        if unmet := self.conditions.unmet(self.now, 2 * _size(folder), self.regardless):
            raise NotNow(unmet)
        return self._train(folder, manifest, self.work.begun(material, self.now))

    def _train(self, folder: Path, manifest: BundleManifest, material: Material) -> Result:
        for line in material_words(material):
            self.tell(line)
        details = _details(material, manifest)
        try:
            decision = self._decide(folder, manifest, material)
            result = self._act_on(decision, material, {**details, "decision": decision.model_dump(mode="json")})
        except Halted as halted:
            return Result(Outcome.STOPPED, str(halted), details)
        except Outdated as outdated:
            self.work.clear()
            return Result(Outcome.FAILED, str(outdated), details)
        except (TrainingError, BundleError) as error:
            self.work.failed()
            return Result(Outcome.FAILED, str(error), details)
        self.work.clear()
        return result

    def _decide(self, folder: Path, manifest: BundleManifest, material: Material) -> Decision:
        """Have it trained, and read what it decided. Raises Halted, Outdated, NotNow, TrainingError."""
        self.work.begin(material.pieces, self.now)
        shutil.rmtree(self.work.out, ignore_errors=True)
        heard_with = HeardWith(current_reference_sums(self.config.timeline, manifest.voice_space), self.config.engine.expected().name)
        threads = str(self.config.retrain.max_cores)
        arguments = ["nightly", "--bundle", str(folder), "--out", str(self.work.out), "--work", str(self.work.weights)]
        process = TrainingProcess(
            [*arguments, "--threads", threads],
            self.config.retrain,
            state_dir() / LOG,
            lambda file: send(self.config.timeline, material.pieces, file, heard_with),
            self.tell,
            self._watch(material),
        )
        try:
            answer = process.run()
        except TrainingError:
            # What was erased can be the very reason.
            self._refuse_outdated(material)
            raise
        refuse_outdated(self.config.timeline, material.pieces)
        return _decision(answer, manifest)

    def _watch(self, material: Material) -> Callable[[], None]:
        """What ends a training that runs: the person, what they erased, and conditions that hold no longer."""
        next_look = {self._refuse_outdated: time.monotonic() + _EVIDENCE_EVERY_S, self._refuse_conditions: time.monotonic()}
        every_s = {self._refuse_outdated: _EVIDENCE_EVERY_S, self._refuse_conditions: _CONDITIONS_EVERY_S}

        def watch() -> None:
            if self.stop.is_set():
                raise Halted(_STOPPED)
            for look, due in next_look.items():
                if time.monotonic() >= due:
                    look(material)
                    next_look[look] = time.monotonic() + every_s[look]

        return watch

    def _refuse_outdated(self, material: Material) -> None:
        try:
            refuse_outdated(self.config.timeline, material.pieces)
        except TimelineError as error:
            # Another program may hold it for a moment; before anything is used it has to answer.
            self.tell(f"cannot look whether all that is learned from is still there: {error}")

    def _refuse_conditions(self, _material: Material) -> None:
        if not self.regardless and (reason := self.conditions.no_longer(datetime.now(UTC))):
            raise NotNow(f"{reason}; it goes on when that is over")

    def _act_on(self, decision: Decision, material: Material, details: Mapping[str, Any]) -> Result:
        if decision.verdict is Verdict.TOO_LITTLE:
            return Result(Outcome.NOTHING, decision.reason, details)
        if decision.verdict is Verdict.REFUSED:
            return Result(Outcome.REFUSED, decision.reason, details)
        version = self._checked(decision, material)
        if self.dry_run:
            return Result(Outcome.DONE, f"it would be used: {decision.reason}", {**details, "dry_run": True})
        # Whoever forgets takes this turn too: so either the new bundle learned from nothing of that, or it is found there and retired.
        with taking_turns(Backups.of(self.config.timeline).folder):
            refuse_outdated(self.config.timeline, material.pieces)
            place = Library.of(self.config).add(self.work.out)
        try:
            go_live(self.config, str(place), f"it learned from you: {decision.reason}")
        except EmosllmError as error:
            reason = f"the new model {version} is better, but could not be taken into use, and {decision.parent} stays: {error}"
            return Result(Outcome.FAILED, reason, details)
        return Result(Outcome.DONE, decision.reason, details)

    def _checked(self, decision: Decision, material: Material) -> str:
        """The version of the bundle that it made, which is the one that it decided about. Raises TrainingError."""
        try:
            made = read_manifest(self.work.out).version
            parent = read_manifest(find_bundle(in_use_of(self.config))).version
        except BundleError as error:
            raise TrainingError(f"the training made no model that can be used: {error}") from error
        first, last = material.pieces[0].start_at, material.pieces[-1].start_at
        if not learned_from(self.work.out, {piece.segment for piece in material.pieces}, first, last):
            raise TrainingError(
                f"the new model {made} does not say what it learned from, so it could not be forgotten; nothing was changed"
            )
        if made != decision.version:
            raise TrainingError(f"the training decided about the model {decision.version}, and made {made}; nothing was changed")
        if parent != decision.parent:
            raise TrainingError(
                f"the model {parent} was put in use while another one, {decision.parent}, was trained on; nothing was changed"
            )
        return made


def too_little(material: Material, limits: RetrainConfig, last: LastAttempt | None) -> str:
    """Why there is not enough to learn from; empty where there is.

    That much has to be new each time is for the test's sake too: what is tried again and again on the same labels passes some day.
    """
    labels = material.labels
    if len(labels) < limits.min_labels:
        have = f"you corrected or confirmed {len(labels)} pieces of speech that can be learned from"
        return f"{have}, and {limits.min_labels} are needed ([retrain] min_labels){left_out_words(material)}"
    fresh = sum(last is None or not last.knew(piece.said, piece.said_at) for piece in labels)
    if fresh < limits.min_new_labels:
        have = f"{fresh} of your {len(labels)} corrections and confirmations are new since the last training"
        return f"{have}, and {limits.min_new_labels} are needed ([retrain] min_new_labels)"
    return ""


def _details(material: Material, manifest: BundleManifest) -> dict[str, Any]:
    counts = {f"{kind.value}s": material.count(kind) for kind in Kind}
    highest = max((piece.said for piece in material.labels), default=0)
    return {"bundle": manifest.version, **counts, "left_out": dict(material.left_out), "highest": highest}


def _decision(answer: bytes, manifest: BundleManifest) -> Decision:
    try:
        decision = Decision.model_validate_json(answer)
    except ValidationError as error:
        raise TrainingError(f"the training's answer is no decision ({error.errors()[0]['msg']}); nothing was changed") from error
    if decision.parent != manifest.version:
        raise TrainingError(f"the training began with the model {decision.parent} instead of {manifest.version}; nothing was changed")
    return decision


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
