"""Labels, results and decisions of retrainings as text. Prints nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from model.bundle_format import PersonalTest, PromotionDecision, PromotionVerdict, Recalibration, RehearsalTest, Stage
from model.labelled_segment import LabelKind
from monitor.personalization.labels import LabelSet
from monitor.scheduler.jobs import JobOutcome, JobResult

_HEADS = {
    JobOutcome.DONE: "A new model is in use",
    JobOutcome.NOTHING: "Nothing was trained",
    JobOutcome.REFUSED: "The new model is not used",
    JobOutcome.STOPPED: "The training was stopped",
    JobOutcome.FAILED: "The training failed",
}

_STAYS = (JobOutcome.REFUSED, JobOutcome.STOPPED, JobOutcome.FAILED)


def label_lines(material: LabelSet) -> list[str]:
    """What there is to learn from, and what of it could not be used."""
    corrections, confirmations, checkins = (material.count(kind) for kind in LabelKind)
    words = f"To learn from: {_count(corrections, 'correction')}, {_count(confirmations, 'confirmation')}"
    words += f", {_count(checkins, 'piece')} of speech near check-ins." if checkins else "."
    return [words, *(f"Left out: {count}, {reason}." for reason, count in sorted(material.left_out.items()))]


def format_left_out(material: LabelSet) -> str:
    """What could not be used, as the end of a sentence; empty where nothing was."""
    reasons = "; ".join(f"{count}: {reason}" for reason, count in sorted(material.left_out.items()))
    return f"; left out were {reasons}" if reasons else ""


def result_lines(result: JobResult) -> list[str]:
    """What came of a retraining: one sentence, then the figures behind it, a line each."""
    told, tried = result.details.get("decision"), bool(result.details.get("dry_run"))
    head = "The new model passed; nothing was changed, because this was a trial" if tried else _HEADS[result.outcome]
    version = told["version"] if told and told["version"] and result.outcome is JobOutcome.DONE else None
    lines = [f"{head}{f' ({version})' if version else ''}: {_sentence(result.reason)}"]
    if told:
        lines += decision_lines(PromotionDecision.model_validate(told))
    if (tried or result.outcome in _STAYS) and "bundle" in result.details:
        lines.append(f"The model in use stays as it is: {result.details['bundle']}.")
    return lines


def decision_lines(decision: PromotionDecision) -> list[str]:
    """The figures of a decision, each with what it means."""
    lines = [*_label_count_lines(decision)]
    if decision.own is not None:
        lines += _personal_test_lines(decision.own)
    if decision.public is not None:
        lines += _public_test_lines(decision.public)
    if decision.calibration is not None and decision.verdict is PromotionVerdict.PROMOTED:
        lines += _calibration_lines(decision.calibration)
    if decision.seconds:
        lines.append(f"It took {_format_seconds(decision.seconds)}.")
    return lines


def detail_lines(details: Mapping[str, Any]) -> list[str]:
    """The figures that the history remembers of a run; empty where it came to no decision."""
    told = details.get("decision")
    return decision_lines(PromotionDecision.model_validate(told)) if told else []


def _label_count_lines(decision: PromotionDecision) -> Iterator[str]:
    learned = decision.learned
    if decision.verdict is not PromotionVerdict.TOO_LITTLE:
        yield (
            f"It learned from {_count(learned.trained, 'piece')} of your speech, and was tested on {learned.held_out}, each answered by a"
            " model that had not learned from it."
        )
    for reason, count in sorted(learned.left_out.items()):
        yield f"The training left out {count}: {reason}."
    if decision.stage is not None:
        biases = ", ".join(f"{emotion.word} {value:+.1f}" for emotion, value in decision.letter_bias.items())
        weights = f"; then mapper and adapter, in {_count(decision.steps, 'step')}" if decision.stage is Stage.WEIGHTS else ""
        yield f"It learned a bias for each emotion, in log-odds ({biases}){weights}."


def _personal_test_lines(own: PersonalTest) -> Iterator[str]:
    weighed = ""
    if own.net_gain is not None:
        weighed = f" Weighed by how rarely you confirm, the net gain is {own.net_gain:.1f}."
    yield (
        f"Of {_count(own.segments, 'label')}, the model in use answers {own.right_before} as you do, and the new one {own.right_after}:"
        f" {own.gained} gained, {own.lost} lost.{weighed}"
    )
    yield (
        f"If it were no better than the one in use, the chance of such a gain would be {_format_probability(own.p_no_better)};"
        " if your corrections said nothing about the sound, the chance that they go so well with its answers would be"
        f" {_format_probability(own.p_by_chance)}. Both must be at most {_format_probability(own.alpha)}."
    )


def _public_test_lines(public: RehearsalTest) -> Iterator[str]:
    yield (
        f"On {_count(public.clips, 'clip')} of {_count(public.speakers, 'other voice')} its unweighted accuracy is {public.uar_after:.3f};"
        f" that of the released model is {public.uar_before:.3f}."
    )
    yield (
        f"With 95 % certainty it fell by at most {-100 * public.change_at_least:.1f} points; {100 * public.margin:.1f} are allowed, because"
        " it serves you alone."
    )
    losses = {emotion: change.before - change.after for emotion, change in public.classes.items() if change.before > change.after}
    if losses:
        worst = max(losses, key=lambda emotion: losses[emotion])
        change = public.classes[worst]
        yield (
            f"The largest loss there is on {worst.word}: recognised in {change.before:.0%} before and {change.after:.0%} now"
            f" ({_count(change.clips, 'clip')})."
        )


def _calibration_lines(new: Recalibration) -> Iterator[str]:
    yield (
        f"Its confidence is fitted anew: temperature {new.temperature_before:.2f} before and {new.temperature_after:.2f} now; under"
        f" {new.unsure_below_after:.0%} it counts as unsure ({new.unsure_below_before:.0%} before), so that it is sure in"
        f" {new.sure_share_after:.0%} of those clips ({new.sure_share_before:.0%} before)."
    )


def _format_probability(p: float) -> str:
    return f"{p * 100:.1f} %" if p >= 0.001 else "under 0.1 %"


def _format_seconds(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
