"""One retraining from beginning to end: enough labels, good conditions, train, and use the new bundle if it is better.

Whatever happens, the bundle in use stays in use until a better one is; the result says why. `retrain_job` is the nightly job;
`run_recorded` notes in the history of jobs a training that the person asks for.
"""

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

from pydantic import ValidationError

from model.bundle_format import BundleManifest, PromotionDecision, PromotionVerdict, find_bundle, read_bundle_manifest
from model.errors import BundleError, EmosllmError, TimelineError, TrainingError
from model.labelled_segment import HeardWith, LabelKind
from monitor.bundles.library import BundleLibrary, activate_bundle
from monitor.bundles.registry import BundleRegistry, learned_from_any
from monitor.config import Config, RetrainConfig
from monitor.fileio import locked
from monitor.paths import training_log
from monitor.personalization.conditions import TrainingConditions
from monitor.personalization.formatting import format_left_out, label_lines
from monitor.personalization.labels import LabelSet, LabelsOutdated, check_labels_current, gather_labels, send_labels
from monitor.personalization.training_process import TrainingFolder, TrainingHalted, TrainingProcess
from monitor.scheduler.jobs import ConditionsNotMet, Job, JobOutcome, JobResult
from monitor.storage.backup import Backups
from monitor.storage.reader import TimelineReader
from monitor.storage.voice_reference import current_reference_sums
from monitor.storage.writer import JobHistory

_CONDITIONS_EVERY_S, _LABELS_EVERY_S = 30.0, 20.0
_NO_AUDIO_REASON = (
    "no sound is kept, so there is nothing to learn from: set [privacy] keep_audio = true to keep it, encrypted, on this machine"
)
_NEEDS_TRANSCRIPTS_REASON = "{} is asked with the words of what is said, and nights learn from sound alone: it stays as it is"
_STOPPED_REASON = "it was stopped, and goes on next time"


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
    conditions: TrainingConditions | None = None,
) -> JobResult:
    """Learn from what there is. now: aware UTC. tell: is given progress in words, from any thread. stop: ends it in good order.

    regardless: of power and of what else the machine does. dry_run: train and decide, and use nothing. last: what is known already.
    Raises ConditionsNotMet when the conditions do not hold, or hold no longer, and EmosllmError when it could not even begin.
    """
    work = TrainingFolder.of_this_machine()
    with work.held():
        return _Retraining(config, now, regardless, dry_run, tell, stop, work, conditions or TrainingConditions(config, work.folder)).run(
            last
        )


@dataclass(slots=True)
class _Retraining:
    config: Config
    now: datetime
    regardless: bool
    dry_run: bool
    tell: Callable[[str], None]
    stop: Event
    work: TrainingFolder
    conditions: TrainingConditions

    def run(self, last: LastAttempt | None) -> JobResult:
        if not self.config.privacy.keep_audio:
            return JobResult(JobOutcome.NOTHING, _NO_AUDIO_REASON)
        folder = find_bundle(BundleRegistry.of(self.config).active())
        manifest = read_bundle_manifest(folder)
        if manifest.strategy.needs_transcript:
            return JobResult(JobOutcome.NOTHING, _NEEDS_TRANSCRIPTS_REASON.format(manifest.version))
        material = gather_labels(self.config, manifest.letters)
        reason = too_few_labels(material, self.config.retrain, None if self.dry_run else last)
        if reason:
            return JobResult(JobOutcome.NOTHING, reason, _details(material, manifest))
        if unmet := self.conditions.unmet(self.now, 2 * _folder_bytes(folder), self.regardless):
            raise ConditionsNotMet(unmet)
        return self._train(folder, manifest, self.work.begun(material, self.now))

    def _train(self, folder: Path, manifest: BundleManifest, material: LabelSet) -> JobResult:
        for line in label_lines(material):
            self.tell(line)
        details = _details(material, manifest)
        try:
            decision = self._decide(folder, manifest, material)
            result = self._act_on(decision, material, {**details, "decision": decision.model_dump(mode="json")})
        except TrainingHalted as halted:
            return JobResult(JobOutcome.STOPPED, str(halted), details)
        except LabelsOutdated as outdated:
            self.work.clear()
            return JobResult(JobOutcome.FAILED, str(outdated), details)
        except (TrainingError, BundleError) as error:
            self.work.failed()
            return JobResult(JobOutcome.FAILED, str(error), details)
        self.work.clear()
        return result

    def _decide(self, folder: Path, manifest: BundleManifest, material: LabelSet) -> PromotionDecision:
        """Have it trained, and read what it decided. Raises Halted, Outdated, ConditionsNotMet, TrainingError."""
        self.work.begin(material.pieces, self.now)
        shutil.rmtree(self.work.out, ignore_errors=True)
        heard_with = HeardWith(current_reference_sums(self.config.timeline, manifest.voice_space), self.config.engine.expected().name)
        threads = str(self.config.retrain.max_cores)
        arguments = ["nightly", "--bundle", str(folder), "--out", str(self.work.out), "--work", str(self.work.weights)]
        process = TrainingProcess(
            [*arguments, "--threads", threads],
            self.config.retrain,
            training_log(),
            lambda file: send_labels(self.config.timeline, material.pieces, file, heard_with),
            self.tell,
            self._watch(material),
        )
        try:
            answer = process.run()
        except TrainingError:
            # What was erased can be the very reason.
            self._refuse_outdated(material)
            raise
        check_labels_current(self.config.timeline, material.pieces)
        return _parse_decision(answer, manifest)

    def _watch(self, material: LabelSet) -> Callable[[], None]:
        """What ends a training that runs: the person, what they erased, and conditions that hold no longer."""
        next_look = {self._refuse_outdated: time.monotonic() + _LABELS_EVERY_S, self._refuse_conditions: time.monotonic()}
        every_s = {self._refuse_outdated: _LABELS_EVERY_S, self._refuse_conditions: _CONDITIONS_EVERY_S}

        def watch() -> None:
            if self.stop.is_set():
                raise TrainingHalted(_STOPPED_REASON)
            for look, due in next_look.items():
                if time.monotonic() >= due:
                    look(material)
                    next_look[look] = time.monotonic() + every_s[look]

        return watch

    def _refuse_outdated(self, material: LabelSet) -> None:
        try:
            check_labels_current(self.config.timeline, material.pieces)
        except TimelineError as error:
            # Another program may hold it for a moment; before anything is used it has to answer.
            self.tell(f"cannot look whether all that is learned from is still there: {error}")

    def _refuse_conditions(self, _material: LabelSet) -> None:
        if not self.regardless and (reason := self.conditions.no_longer(datetime.now(UTC))):
            raise ConditionsNotMet(f"{reason}; it goes on when that is over")

    def _act_on(self, decision: PromotionDecision, material: LabelSet, details: Mapping[str, Any]) -> JobResult:
        if decision.verdict is PromotionVerdict.TOO_LITTLE:
            return JobResult(JobOutcome.NOTHING, decision.reason, details)
        if decision.verdict is PromotionVerdict.REFUSED:
            return JobResult(JobOutcome.REFUSED, decision.reason, details)
        version = self._checked(decision, material)
        if self.dry_run:
            return JobResult(JobOutcome.DONE, f"it would be used: {decision.reason}", {**details, "dry_run": True})
        # Whoever forgets takes this turn too: so either the new bundle learned from nothing of that, or it is found there and retired.
        with locked(Backups.of(self.config.timeline).folder):
            check_labels_current(self.config.timeline, material.pieces)
            place = BundleLibrary.of(self.config).add(self.work.out)
        try:
            activate_bundle(self.config, str(place), f"it learned from you: {decision.reason}")
        except EmosllmError as error:
            reason = f"the new model {version} is better, but could not be taken into use, and {decision.parent} stays: {error}"
            return JobResult(JobOutcome.FAILED, reason, details)
        return JobResult(JobOutcome.DONE, decision.reason, details)

    def _checked(self, decision: PromotionDecision, material: LabelSet) -> str:
        """The version of the bundle that it made, which is the one that it decided about. Raises TrainingError."""
        try:
            made = read_bundle_manifest(self.work.out).version
            parent = read_bundle_manifest(find_bundle(BundleRegistry.of(self.config).active())).version
        except BundleError as error:
            raise TrainingError(f"the training made no model that can be used: {error}") from error
        first, last = material.pieces[0].start_at, material.pieces[-1].start_at
        if not learned_from_any(self.work.out, {piece.segment for piece in material.pieces}, first, last):
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


def too_few_labels(material: LabelSet, limits: RetrainConfig, last: LastAttempt | None) -> str:
    """Why there is not enough to learn from; empty where there is.

    That much has to be new each time is for the test's sake too: what is tried again and again on the same labels passes some day.
    """
    labels = material.labels
    if len(labels) < limits.min_labels:
        have = f"you corrected or confirmed {len(labels)} pieces of speech that can be learned from"
        return f"{have}, and {limits.min_labels} are needed ([retrain] min_labels){format_left_out(material)}"
    fresh = sum(last is None or not last.knew(piece.said, piece.said_at) for piece in labels)
    if fresh < limits.min_new_labels:
        have = f"{fresh} of your {len(labels)} corrections and confirmations are new since the last training"
        return f"{have}, and {limits.min_new_labels} are needed ([retrain] min_new_labels)"
    return ""


def _details(material: LabelSet, manifest: BundleManifest) -> dict[str, Any]:
    counts = {f"{kind.value}s": material.count(kind) for kind in LabelKind}
    highest = max((piece.said for piece in material.labels), default=0)
    return {"bundle": manifest.version, **counts, "left_out": dict(material.left_out), "highest": highest}


def _parse_decision(answer: bytes, manifest: BundleManifest) -> PromotionDecision:
    try:
        decision = PromotionDecision.model_validate_json(answer)
    except ValidationError as error:
        raise TrainingError(f"the training's answer is no decision ({error.errors()[0]['msg']}); nothing was changed") from error
    if decision.parent != manifest.version:
        raise TrainingError(f"the training began with the model {decision.parent} instead of {manifest.version}; nothing was changed")
    return decision


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


_logger = logging.getLogger(__name__)

RETRAIN_JOB = "retrain"


def retrain_job(config: Config, stop: Event | None = None) -> Job:
    """stop: ends a training that runs, in good order; whoever ends the monitor sets it. Without it the training ends with its parent."""
    ending = stop or Event()

    def run(now: datetime) -> JobResult:
        # Here, because whoever only lists jobs must not wait for it.

        last = last_attempt(config)
        return retrain(config, now=now, regardless=False, dry_run=False, tell=_logger.info, stop=ending, last=last)

    return Job(RETRAIN_JOB, "learn from your corrections", run)


_MAX_RUNS_READ = 500
_DECIDED_OUTCOMES = (JobOutcome.DONE, JobOutcome.REFUSED, JobOutcome.NOTHING)


def last_attempt(config: Config) -> LastAttempt | None:
    """The last training that came to a decision; None where none has, or that is long ago. Raises TimelineError, StoreKeyError."""
    with TimelineReader.open(config.timeline.database_path(), config.timeline.keys()) as reader:
        runs = reader.job_runs(_MAX_RUNS_READ, RETRAIN_JOB)
    attempts = (LastAttempt.of(run.started_at, run.details) for run in runs if run.outcome in _DECIDED_OUTCOMES)
    return next((attempt for attempt in attempts if attempt is not None), None)


def run_recorded(config: Config, now: datetime, train: Callable[[], JobResult]) -> JobResult:
    """Have the history know of a training that the person asks for: it counts as that day's. now: UTC.

    Raises what `train` raises, TimelineError, and EmosllmError when one is going on.
    """
    settings = config.timeline
    with JobHistory.open(settings.database_path(), settings.keys()) as history:
        run = history.begin(RETRAIN_JOB, now.astimezone(settings.zone_info()).date(), now)
        if run is None:
            raise EmosllmError("another training is going on; see `emosllm-monitor schedule list`")
        try:
            result = train()
        except ConditionsNotMet:
            history.retract(run)
            raise
        except EmosllmError as error:
            history.end(run, datetime.now(UTC), JobOutcome.FAILED, str(error), {})
            raise
        history.end(run, datetime.now(UTC), result.outcome, result.reason, result.details)
        return result
