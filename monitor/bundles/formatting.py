"""Bundles as text and as JSON: where each comes from, how it was found better, what became of it."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from model.bundle_format import PersonalScore, PromotionDecision
from monitor.bundles.library import BundleEntry, BundleLibrary, read_decision, read_training_source
from monitor.bundles.registry import RETIRED_REASON
from monitor.config import PACKAGED_BUNDLE


class BundleFormatter:
    """Of one library, as it is now. used: name or folder of the bundle in use. zone: of the moments in lines; JSON has UTC."""

    def __init__(self, library: BundleLibrary, used: str, zone: ZoneInfo) -> None:
        self._zone = zone
        self._known = library.known()
        self._used, self._before = used, library.registry.previous()
        self._aside = library.registry.disabled()
        self._uses = library.registry.uses()
        self._decisions = {kept.version: read_decision(kept.folder) for kept in self._known}

    def state(self, kept: BundleEntry) -> str:
        """retired, damaged, in use, set aside, before (it was in use before), or kept."""
        if kept.retired or kept.manifest is None:
            return "retired" if kept.retired else "damaged"
        if kept.version in self._aside:
            return "set aside"
        return "in use" if kept.name == self._used else "before" if kept.name == self._before else "kept"

    def as_json(self, kept: BundleEntry) -> dict[str, Any]:
        """One entry of the list."""
        decision = self._decisions.get(kept.version) or read_decision(kept.folder)
        used = [use.at.isoformat() for use in self._uses if use.version == kept.version]
        return {
            "version": kept.version,
            "name": kept.name,
            "state": self.state(kept),
            "reason": self._reason(kept),
            "created": kept.manifest.created if kept.manifest else None,
            "used_at": used[-1] if used else None,
            "own": kept.own,
            "parent": decision.parent if decision else None,
            "base": self._base(decision),
            "decision": decision.model_dump(mode="json") if decision else None,
        }

    def list_json(self) -> list[dict[str, Any]]:
        """Every bundle, oldest first."""
        return [self.as_json(kept) for kept in self._known]

    def lines(self) -> list[str]:
        """Every bundle in a line."""
        return [self._line(kept) for kept in self._known]

    def show_json(self, kept: BundleEntry) -> dict[str, Any]:
        """All that is known of one."""
        source = read_training_source(kept.folder)
        learned = source and {"segments": source.segments, "from": source.start.isoformat(), "to": source.end.isoformat()}
        manifest = kept.manifest.model_dump(mode="json") if kept.manifest else None
        uses = [{"at": use.at.isoformat(), "why": use.why} for use in self._uses if use.version == kept.version]
        return {**self.as_json(kept), "folder": str(kept.folder), "uses": uses, "learned_from": learned, "manifest": manifest}

    def show_lines(self, kept: BundleEntry) -> list[str]:
        """The same for people."""
        told = [(kept.version, self.state(kept) + (f": {reason}" if (reason := self._reason(kept)) else "")), ("folder", str(kept.folder))]
        decision, source = self._decisions.get(kept.version) or read_decision(kept.folder), read_training_source(kept.folder)
        if decision:
            told.append(("made from", f"{decision.parent}, which goes back to {self._base(decision)}"))
        told += _manifest_rows(kept)
        if source:
            told.append(("learned from", f"{source.segments} pieces of speech, {self._when(source.start)} to {self._when(source.end)}"))
        told += _decision_rows(decision) if decision else []
        told += [
            ("used from", f"{self._when(use.at)}: {use.why or 'no reason given'}") for use in self._uses if use.version == kept.version
        ]
        width = max(len(word) for word, _ in told)
        return [f"{word:{width}}  {text}" for word, text in told]

    def _line(self, kept: BundleEntry) -> str:
        decision = self._decisions[kept.version]
        made = kept.manifest.created if kept.manifest else ""
        origin = "built in" if kept.name == PACKAGED_BUNDLE else f"from {decision.parent}" if decision else ""
        parts = (f"{kept.version:20}  {self.state(kept):9}  {made[:16]:10}", origin, format_decision_figures(decision), self._reason(kept))
        return "  ".join(part for part in parts if part)

    def _reason(self, kept: BundleEntry) -> str:
        return RETIRED_REASON if kept.retired else kept.problem or self._aside.get(kept.version, "")

    def _base(self, decision: PromotionDecision | None) -> str | None:
        """The version that all this began with, as far as those in between are there."""
        seen = set()
        version = decision.parent if decision else None
        while version is not None and version not in seen and (before := self._decisions.get(version)) is not None:
            seen.add(version)
            version = before.parent
        return version

    def _when(self, moment: datetime) -> str:
        return f"{moment.astimezone(self._zone):%Y-%m-%d %H:%M}"


def format_decision_figures(decision: PromotionDecision | None) -> str:
    """What a night decided by, in short; empty where no night did."""
    if decision is None or decision.own is None:
        return ""
    own = decision.own
    text = f"yours {own.right_before} -> {own.right_after} of {own.segments} right, p {own.p_no_better:.3f}"
    if decision.public is not None:
        text += f"; others' unweighted accuracy {decision.public.uar_before:.3f} -> {decision.public.uar_after:.3f}"
    return text


def _manifest_rows(kept: BundleEntry) -> list[tuple[str, str]]:
    manifest = kept.manifest
    if manifest is None:
        return []
    told = [
        ("made", manifest.created),
        ("answers", ", ".join(letter.name.lower() for letter in manifest.letters)),
        ("calibration", f"temperature {manifest.temperature:g}, unsure below {manifest.unsure_below:g}"),
        ("biases", ", ".join(f"{letter.word} {value:+.2f}" for letter, value in manifest.letter_bias.items()) or "none"),
        ("asked", f"{manifest.strategy}, prompt {manifest.prompt}, {manifest.shots} shots"),
        ("encoder, LLM", f"{manifest.encoder}, {manifest.llm}"),
        ("licence", manifest.license),
    ]
    told += [("built on", text) for text in manifest.pretrained] + [("trained on", text) for text in manifest.trained_on]
    told += [("limit", text) for text in manifest.limits]
    for score in manifest.scores:
        low, high = score.interval_95
        told.append(("released with", f"unweighted accuracy {score.unweighted_accuracy:.3f} ({low:.2f} to {high:.2f}) on {score.split}"))
        # Where there was less speech than asked for, several lengths found the same.
        known = [_format_personal_score(one) for one in score.personal if one.groups and one.minutes]
        told += [("knowing the person", text) for text in dict.fromkeys(known)]
    return told


def _format_personal_score(score: PersonalScore) -> str:
    everyone = score.groups[0]
    return f"unweighted accuracy {everyone.unweighted_accuracy:.3f} after {score.minutes_found:.1f} minutes of their speech"


def _decision_rows(decision: PromotionDecision) -> list[tuple[str, str]]:
    learned = decision.learned
    told = [
        ("decided", f"{decision.verdict}: {decision.reason}"),
        ("labels", f"{learned.corrections} corrections, {learned.confirmations} confirmations, {learned.checkins} check-ins"),
    ]
    if decision.own:
        own = decision.own
        change = f"{own.right_before} -> {own.right_after} of {own.segments} right, {own.gained} gained and {own.lost} lost"
        told.append(("your speech", f"{change}, p {own.p_no_better:.3f}; by chance {own.p_by_chance:.3f}; at most {own.alpha:g}"))
    if decision.public:
        public = decision.public
        clips = f"{public.clips} clips of {public.speakers} speakers"
        change = f"unweighted accuracy {public.uar_before:.3f} -> {public.uar_after:.3f}"
        told.append(("others", f"{clips}: {change}, a fall of at most {-public.change_at_least:.3f} (95 %); {public.margin:g} is allowed"))
        told += [
            (f"  {letter.name.lower()}", f"recall {one.before:.2f} -> {one.after:.2f} of {one.clips}")
            for letter, one in public.classes.items()
        ]
    return told
