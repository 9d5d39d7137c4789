"""Whole bundles like compact that differ from it a little, as a night makes them."""

import json
import shutil
from datetime import date
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from model.decision import DECISION, Decision, Learned, OwnTest, Verdict
from model.manifest import MANIFEST, digests, find_bundle, read_manifest, version_of
from monitor.control import Answer
from monitor.judging.retirement import LEARNED_FROM

PACKAGED = find_bundle("compact")
NANO = Path(__file__).parent / "data" / "nano"  # was built in before compact
VERSION = read_manifest(PACKAGED).version
STORED = f"{VERSION}+everyday"  # with the prior it judges under


def trained(folder: Path, seed: int = 1, *, size: float = 0.01, temperature: float = 1.1, told: bool = True, large: bool = False) -> Path:
    """The built-in bundle with its adapter and mapper moved by `size` of their norms in each tensor, and what a night writes beside them.

    large: with encoder and language model, which take nine tenths of its room; without them it is whole, but cannot be loaded.
    """
    shutil.copytree(PACKAGED, folder, ignore=None if large else shutil.ignore_patterns("llm", "encoder"))
    random = np.random.default_rng(seed)
    for name in ("mapper.safetensors", "adapter/adapter_model.safetensors"):
        weights = {}
        for key, tensor in load_file(folder / name).items():
            noise = random.normal(size=tensor.shape)
            weights[key] = (tensor + noise * size * np.linalg.norm(tensor) / np.linalg.norm(noise)).astype(tensor.dtype)
        save_file(weights, folder / name)
    if told:
        span = {"from": "2026-11-01T08:00:00+00:00", "to": "2026-11-25T20:00:00+00:00"}
        (folder / LEARNED_FROM).write_text(json.dumps({"segments": list(range(seed, seed + 40)), **span}))
    version = version_of("compact", digests(folder))
    if told:
        (folder / DECISION).write_text(decision(version, VERSION).model_dump_json())
    manifest = json.loads((folder / MANIFEST).read_text())
    changed = {"version": version, "created": str(date(2026, 11, seed)), "temperature": temperature, "files": digests(folder)}
    (folder / MANIFEST).write_text(json.dumps(manifest | changed))
    return folder


def decision(version: str, parent: str) -> Decision:
    """What a night says that found its bundle better."""
    own = OwnTest(segments=20, right_before=11, right_after=17, gained=7, lost=1, p_no_better=0.035, p_by_chance=0.002, alpha=0.05)
    learned = Learned(corrections=50, confirmations=10, checkins=4, trained=34, stopping=6, held_out=20)
    return Decision(verdict=Verdict.PROMOTED, reason="better on your own speech", parent=parent, version=version, learned=learned, own=own)


class Monitor:
    """What answers `use-bundle` in a running monitor: after `slow` questions it is in use; `refusing` says why it never is."""

    def __init__(self, slow: int = 0, refusing: str = "") -> None:
        self.asked: list[str] = []
        self.using = "compact"
        self._slow, self._refusing = slow, refusing

    def use(self, arguments: "dict[str, object]") -> Answer:
        """The command function."""
        from model.errors import EngineRejected

        name = str(arguments["name"])
        self.asked.append(name)
        if self._refusing:
            raise EngineRejected(self._refusing)
        version = read_manifest(find_bundle(name)).version
        if len(self.asked) <= self._slow:
            return {"version": version, "state": "switching"}
        self.using = name
        return {"version": version, "state": "in use"}
