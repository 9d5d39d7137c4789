"""Checkpoints of a training run: whole or not there at all, so that whatever stops a run leaves the last one good.

A checkpoint holds what has been trained so far (not the frozen weights, which are known), the optimizer's state and where the run was.
"""

import errno
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.errors import TrainingError

logger = logging.getLogger(__name__)

_WEIGHTS = "trained.safetensors"
_STATE = "state.json"
_KEPT = 2


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run is: `step` steps of phase number `phase` are done. finished: the phase is complete, its averages taken."""

    phase: int
    step: int
    finished: bool


def whole(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, the newest last; an unfinished one's name begins with a dot."""
    found = [path for path in folder.glob("phase-*/") if (path / _STATE).is_file()]
    return sorted(found, key=lambda path: _order(_position(path)))


def begin_from(folder: Path, other: Path) -> None:
    """Let a run whose folder of checkpoints is empty continue from the last one of another run."""
    if whole(folder) or not whole(other):
        return
    last = whole(other)[-1]
    unfinished = folder / f".{last.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(last, unfinished)
    unfinished.rename(folder / last.name)


class Checkpoints:
    """The checkpoints in one folder."""

    def __init__(self, folder: Path, accelerator: Accelerator, belongs: Callable[[str], bool]) -> None:
        """belongs: whether a parameter of the network, by its name, is one that the recipe trains."""
        self._folder, self._accelerator, self._belongs = folder, accelerator, belongs

    def latest(self) -> tuple[Path, Position] | None:
        """The newest whole checkpoint."""
        found = whole(self._folder)
        return (found[-1], _position(found[-1])) if found else None

    def save(self, position: Position) -> None:
        """Write a checkpoint and drop all but the last two. Raises TrainingError when the disk is full; earlier ones stay."""
        name = f"phase-{position.phase}-step-{position.step:07d}{'-finished' if position.finished else ''}"
        unfinished = self._folder / f".{name}"
        try:
            if self._accelerator.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
            self._accelerator.wait_for_everyone()
            self._save_state(unfinished)
            self._accelerator.wait_for_everyone()
            if self._accelerator.is_main_process:
                (unfinished / _STATE).write_text(json.dumps(asdict(position)), encoding="utf-8")
                unfinished.rename(self._folder / name)
                self._drop_old()
            # Nobody asks for the latest checkpoint before it has its name.
            self._accelerator.wait_for_everyone()
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise TrainingError(self._why(error)) from error

    def load(self, path: Path) -> None:
        """Take everything back from a checkpoint. Raises TrainingError when it does not fit this run."""
        hook = self._accelerator.register_load_state_pre_hook(self._load_trained)
        try:
            self._accelerator.load_state(str(path))
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise TrainingError(f"the checkpoint {path} cannot be read ({error}); remove it to go on from the one before") from error
        finally:
            hook.remove()

    def load_weights(self, path: Path, network: nn.Module) -> None:
        """Only the weights, for the next phase, whose optimizer starts anew."""
        _put(network, load_file(path / _WEIGHTS))

    def _why(self, error: Exception) -> str:
        kept = self.latest()
        last = f"the last good checkpoint is {kept[0]}" if kept else "there is no earlier checkpoint"
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        if full or any(
            sign in str(error) for sign in ("No space left", "os error 28", "File too large", "os error 27", "file write failed")
        ):
            return f"no room for a checkpoint in {self._folder} ({error}); free some and run the same command again: {last}"
        return f"a checkpoint could not be written to {self._folder}: {error}; {last}"

    def _drop_old(self) -> None:
        for path in whole(self._folder)[:-_KEPT]:
            shutil.rmtree(path)

    def _save_state(self, folder: Path) -> None:
        # For this call only, because several runs may share one accelerator.
        hook = self._accelerator.register_save_state_pre_hook(self._save_trained)
        try:
            self._accelerator.save_state(str(folder))
        finally:
            hook.remove()

    def _save_trained(self, models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        if self._accelerator.is_main_process:
            network = self._accelerator.unwrap_model(models[0])
            trained = {name: p.detach().cpu().contiguous() for name, p in network.named_parameters() if self._belongs(name)}
            save_file(trained, Path(folder) / _WEIGHTS)
        weights.clear()  # Accelerate would otherwise write the frozen language model beside it, every time

    def _load_trained(self, models: list[nn.Module], folder: str) -> None:
        _put(self._accelerator.unwrap_model(models[0]), load_file(Path(folder) / _WEIGHTS))
        models.clear()


def _put(network: nn.Module, weights: dict[str, Tensor]) -> None:
    own: dict[str, Any] = dict(network.named_parameters())
    for name, value in weights.items():
        own[name].data.copy_(value)


def _position(path: Path) -> Position:
    return Position(**json.loads((path / _STATE).read_text(encoding="utf-8")))


def _order(position: Position) -> tuple[int, int, bool]:
    return position.phase, position.step, position.finished
