"""Writes the bundle of a night: everything of the one it began with, but mapper, adapter, biases, calibration and what it learned from."""

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from safetensors.torch import save_file

from model.bundle import Bundle
from model.decision import DECISION, Decision
from model.evidence import Evidence
from model.manifest import CARD, LEARNED_FROM, MANIFEST, digests, version_of
from model.speech_llm import SpeechLLM
from train.nightly.recalibration import Fit
from train.release import refuse_existing, write_manifest

_SUFFIX = "-own"
_NEW = (MANIFEST, CARD, LEARNED_FROM, DECISION, "mapper.safetensors", "adapter")
_LIMIT = "It learned from one person's own speech and words: figures on other voices are those of the bundle it began with."


def write_new_bundle(parent: Bundle, llm: SpeechLLM, fit: Fit, learned: Sequence[Evidence], decision: Decision, folder: Path) -> Decision:
    """Write to `folder`, which must not exist yet, whole or not at all. parent: with the new mapper in it. Returns the decision with the
    new version."""
    refuse_existing(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(parent.folder, partial, ignore=lambda at, _names: _NEW if Path(at) == parent.folder else ())
    save_file(parent.mapper.state_dict(), partial / "mapper.safetensors")
    llm.save(None, partial / "adapter")
    (partial / LEARNED_FROM).write_text(json.dumps(_learned(parent.folder, learned)), encoding="utf-8")
    name = parent.manifest.name.removesuffix(_SUFFIX) + _SUFFIX
    # Biases are no file of their own, and have a say in its answers.
    version = version_of(name, {**digests(partial), "letter_bias": json.dumps(decision.letter_bias)})
    decision = decision.model_copy(update={"version": version})
    (partial / DECISION).write_text(decision.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (partial / CARD).write_text(_card(parent, decision), encoding="utf-8")
    manifest = parent.manifest.model_copy(
        update={
            "name": name,
            "version": version,
            "created": datetime.now(UTC).date().isoformat(),
            "letter_bias": decision.letter_bias,
            "temperature": round(fit.temperature, 4),
            "unsure_below": round(fit.unsure_below, 4),
            "limits": [*(limit for limit in parent.manifest.limits if limit != _LIMIT), _LIMIT],
            "files": digests(partial),
        }
    )
    write_manifest(partial, manifest)
    partial.rename(folder)
    return decision


def _learned(parent: Path, learned: Sequence[Evidence]) -> dict[str, object]:
    """From which segments, and of which time: what the one before learned from, and this."""
    try:
        known = json.loads((parent / LEARNED_FROM).read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = {"segments": [], "from": None, "to": None}
    moments = [one.at.isoformat() for one in learned]
    return {
        "segments": sorted({*known["segments"], *(one.segment for one in learned)}),
        "from": min(filter(None, [known["from"], *moments])),
        "to": max(filter(None, [known["to"], *moments])),
    }


def _card(parent: Bundle, decision: Decision) -> str:
    learned = decision.learned
    return "\n".join(
        [
            f"# {decision.version}",
            "",
            f"Learned at night on this machine from {learned.corrections} corrections, {learned.confirmations} confirmations and"
            f" {learned.checkins} check-ins of one person, beginning with {decision.parent}. It is for that person alone: whoever has it"
            " may learn something of their voice. Why it was let through: `decision.json`.",
            "",
            f"Licence: {parent.manifest.license}, as that of the bundle it began with.",
            "",
        ]
    )
