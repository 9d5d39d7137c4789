"""How long it takes until another bundle is in use: while nobody speaks, with segments waiting, and where only a new process can use it.

The judging process is the monitor's own, with embedded vLLM and compact; the others are compact with a changed adapter and mapper.
"""

import json
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bench.harness import demo_segments
from model.audio import Int16
from model.bundle_format import MANIFEST_FILE, compute_version, file_checksums, find_bundle
from monitor.config import EngineConfig
from monitor.inference.protocol import BundleSwitched, EngineChanged, EngineState, Predicted, SupervisorEvent
from tests.support.inference import DrivenSupervisor

_WAITING = 64
_ROUNDS = 6
_PATIENCE_S = 600.0


class _Swaps:
    """A supervisor and when it reported what; seconds on one clock."""

    def __init__(self, folder: Path) -> None:
        self._sounds: dict[int, Int16] = {}
        self._change = threading.Condition()
        self.answered_at: dict[int, float] = {}
        self.versions: dict[int, str] = {}
        self._outcome: tuple[float, str] | None = None
        self._ready = False
        self.supervisor = DrivenSupervisor(EngineConfig(bundle="compact"), folder, self._sounds.get, self._handle)
        self.supervisor.start()
        self.wait(lambda: self._ready)

    def swap(self, bundle: Path) -> tuple[float, float]:
        """When it was asked for and when it was in use."""
        self._outcome = None
        began = time.perf_counter()
        self.supervisor.use(str(bundle))
        self.wait(lambda: self._outcome is not None)
        assert self._outcome is not None
        ended, reason = self._outcome
        if reason:
            raise RuntimeError(reason)
        return began, ended

    def submit(self, pcms: list[Int16]) -> list[int]:
        """The entries."""
        entries = list(range(len(self._sounds), len(self._sounds) + len(pcms)))
        self._sounds.update(zip(entries, pcms, strict=True))
        for entry in entries:
            self.supervisor.submit(entry)
        return entries

    def wait(self, until: Callable[[], bool]) -> None:
        """Raises RuntimeError when it takes too long."""
        with self._change:
            if not self._change.wait_for(until, _PATIENCE_S):
                raise RuntimeError(f"waited for more than {_PATIENCE_S} s")

    def _handle(self, event: SupervisorEvent) -> None:
        with self._change:
            match event:
                case Predicted(results):
                    self.answered_at.update(dict.fromkeys(results, time.perf_counter()))
                    self.versions.update({entry: result.prediction.bundle_version for entry, result in results.items()})
                case EngineChanged(state):
                    self._ready = state is EngineState.READY
                case BundleSwitched(reason=reason):
                    self._outcome = time.perf_counter(), reason
            self._change.notify_all()


def run() -> list[str]:
    """Markdown lines; the ratio is to the time that judging 64 segments takes in the same run."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        pair = [_changed(here / str(seed), seed) for seed in (1, 2)]
        swaps = _Swaps(here)
        sounds = (demo_segments() * _WAITING)[:_WAITING]
        drain = statistics.median(_drain(swaps, sounds) for _ in range(3))
        idle = [ended - began for began, ended in (swaps.swap(pair[number % 2]) for number in range(_ROUNDS))]
        loaded = [_loaded(swaps, sounds, pair[number % 2]) for number in range(_ROUNDS)]
        other = _changed(here / "letters", 3, letters=["A", "S", "H", "N"])
        began, ended = swaps.swap(other)
        swaps.supervisor.finish(lambda: True)
    rows = [
        ("nobody speaks: from asking to in use", idle),
        (f"{_WAITING} being judged: from asking to in use", [whole for whole, _ in loaded]),
        ("of that, from the last answer of the old one to in use", [alone for _, alone in loaded]),
        ("only a new process can use it (other letters)", [ended - began]),
    ]
    lines = [f"## Another bundle in use (embedded vLLM, compact; {_ROUNDS} swaps; judging {_WAITING} takes {drain:.2f} s)", ""]
    lines += ["| | median s | longest s | median, ratio to judging |", "|---|---|---|---|"]
    return lines + [f"| {name} | {(mid := statistics.median(s)):.2f} | {max(s):.2f} | {mid / drain:.2f} |" for name, s in rows]


def _drain(swaps: _Swaps, sounds: list[Int16]) -> float:
    began = time.perf_counter()
    entries = swaps.submit(sounds)
    swaps.wait(lambda: entries[-1] in swaps.answered_at)
    return time.perf_counter() - began


def _loaded(swaps: _Swaps, sounds: list[Int16], bundle: Path) -> tuple[float, float]:
    """Seconds from asking, while the old bundle judges 64 segments, to in use; and from its last answer."""
    old = swaps.supervisor.in_use
    entries = swaps.submit(sounds + sounds)
    swaps.wait(lambda: entries[0] in swaps.answered_at)
    began, ended = swaps.swap(bundle)
    swaps.wait(lambda: all(entry in swaps.answered_at for entry in entries))
    before = [swaps.answered_at[entry] for entry in entries if swaps.versions[entry] == old]
    return ended - began, ended - max([began, *before])


def _changed(folder: Path, seed: int, letters: list[str] | None = None) -> Path:
    """nano with noise in adapter and mapper."""
    shutil.copytree(find_bundle("compact"), folder)
    torch.manual_seed(seed)
    for path in (folder / "adapter/adapter_model.safetensors", folder / "mapper.safetensors"):
        save_file({name: tensor + 0.01 * torch.randn_like(tensor) for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    told = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    files = file_checksums(folder)
    told.update({"files": files, "version": compute_version(told["name"], files), "letters": letters or told["letters"]})
    (folder / MANIFEST_FILE).write_text(json.dumps(told), encoding="utf-8")
    return folder


if __name__ == "__main__":
    print("\n".join(run()))
