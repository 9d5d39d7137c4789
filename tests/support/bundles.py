"""Whole bundles as a night makes them: like the built-in one with slightly moved weights. Does not import torch."""

import json
import shutil
from datetime import date
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays

from model.bundle_format import (
    DECISION_FILE,
    LEARNED_FROM_FILE,
    MANIFEST_FILE,
    LabelCounts,
    PersonalTest,
    PromotionDecision,
    PromotionVerdict,
    compute_version,
    file_checksums,
    find_bundle,
    read_bundle_manifest,
)
from monitor.control import Reply
from tests.support.paths import DATA

PACKAGED = find_bundle("compact")
NANO = DATA / "nano"  # was built in before compact
VERSION = read_bundle_manifest(PACKAGED).version
STORED = f"{VERSION}+everyday"  # with the prior it judges under


def trained(folder: Path, seed: int = 1, *, size: float = 0.01, temperature: float = 1.1, told: bool = True, large: bool = False) -> Path:
    """The built-in bundle with its adapter and mapper moved by `size` of their norms in each tensor, and what a night writes beside them.

    large: with encoder and language model, which take nine tenths of its room; without them it is whole, but cannot be loaded.
    """
    shutil.copytree(PACKAGED, folder, ignore=None if large else shutil.ignore_patterns("llm", "encoder"))
    random = np.random.default_rng(seed)
    for name in ("mapper.safetensors", "adapter/adapter_model.safetensors"):
        weights = {}
        for key, tensor in load_arrays(folder / name).items():
            noise = random.normal(size=tensor.shape)
            weights[key] = (tensor + noise * size * np.linalg.norm(tensor) / np.linalg.norm(noise)).astype(tensor.dtype)
        save_arrays(weights, folder / name)
    if told:
        span = {"from": "2026-11-01T08:00:00+00:00", "to": "2026-11-25T20:00:00+00:00"}
        (folder / LEARNED_FROM_FILE).write_text(json.dumps({"segments": list(range(seed, seed + 40)), **span}))
    version = compute_version("compact", file_checksums(folder))
    if told:
        (folder / DECISION_FILE).write_text(decision(version, VERSION).model_dump_json())
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    changed = {"version": version, "created": str(date(2026, 11, seed)), "temperature": temperature, "files": file_checksums(folder)}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest | changed))
    return folder


def decision(version: str, parent: str) -> PromotionDecision:
    """What a night says that found its bundle better."""
    own = PersonalTest(segments=20, right_before=11, right_after=17, gained=7, lost=1, p_no_better=0.035, p_by_chance=0.002, alpha=0.05)
    learned = LabelCounts(corrections=50, confirmations=10, checkins=4, trained=34, stopping=6, held_out=20)
    return PromotionDecision(
        verdict=PromotionVerdict.PROMOTED, reason="better on your own speech", parent=parent, version=version, learned=learned, own=own
    )


class Monitor:
    """What answers `use-bundle` in a running monitor: after `slow` questions it is in use; `refusing` says why it never is."""

    def __init__(self, slow: int = 0, refusing: str = "") -> None:
        self.asked: list[str] = []
        self.using = "compact"
        self._slow, self._refusing = slow, refusing

    def use(self, arguments: "dict[str, object]") -> Reply:
        """The command function."""
        from model.errors import EngineRejected

        name = str(arguments["name"])
        self.asked.append(name)
        if self._refusing:
            raise EngineRejected(self._refusing)
        version = read_bundle_manifest(find_bundle(name)).version
        if len(self.asked) <= self._slow:
            return {"version": version, "state": "switching"}
        self.using = name
        return {"version": version, "state": "in use"}
