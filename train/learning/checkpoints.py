"""What a training run writes: checkpoints, averaged weights (Izmailov et al., 2018), and a log of every step.

A checkpoint is whole or not there at all, so that a run that stops for any reason can be resumed from the last one.
"""

import errno
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn, zeros_like
from torch.utils.tensorboard import SummaryWriter

from model.errors import TrainingError
from train.recipe import PhaseRecipe


class WeightAverage:
    """The mean of some parameters over the last steps of a phase; part of checkpoints."""

    def __init__(self, parameters: Sequence[nn.Parameter], first_step: int) -> None:
        self._parameters, self._first, self._count = list(parameters), first_step, 0
        self._sums: list[Tensor] = []

    def add(self, step: int) -> None:
        """Take this step's weights in, if it is one of the last."""
        if step < self._first:
            return
        if not self._sums:
            self._sums = [zeros_like(p) for p in self._parameters]
        self._count += 1
        for total, parameter in zip(self._sums, self._parameters, strict=True):
            total.add_(parameter.detach())

    def apply(self) -> None:
        """Put the mean in the parameters' place, if there is one."""
        for total, parameter in zip(self._sums, self._parameters, strict=False):
            parameter.data.copy_(total / self._count)

    def state_dict(self) -> dict[str, Any]:
        """For checkpoints."""
        return {"count": self._count, "sums": self._sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._count, self._sums = state["count"], [total.to(p.device) for total, p in zip(state["sums"], self._parameters, strict=False)]


logger = logging.getLogger(__name__)

_WEIGHTS = "trained.safetensors"
_STATE = "state.json"
_KEPT = 2


@dataclass(frozen=True, slots=True)
class TrainingPosition:
    """Where a run is: `step` steps of phase number `phase` are done. finished: the phase is complete, its averages taken."""

    phase: int
    step: int
    finished: bool


def complete_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, the newest last; an unfinished one's name begins with a dot."""
    found = [path for path in folder.glob("phase-*/") if (path / _STATE).is_file()]
    return sorted(found, key=lambda path: _position_key(_position(path)))


def continue_from(folder: Path, other: Path) -> None:
    """Let a run whose folder of checkpoints is empty continue from the last one of another run."""
    if complete_checkpoints(folder) or not complete_checkpoints(other):
        return
    last = complete_checkpoints(other)[-1]
    unfinished = folder / f".{last.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(last, unfinished)
    unfinished.rename(folder / last.name)


class Checkpoints:
    """The checkpoints in one folder."""

    def __init__(self, folder: Path, accelerator: Accelerator, belongs: Callable[[str], bool]) -> None:
        """belongs: whether a parameter of the network, by its name, is one that the recipe trains."""
        self._folder, self._accelerator, self._belongs = folder, accelerator, belongs

    def latest(self) -> tuple[Path, TrainingPosition] | None:
        """The newest whole checkpoint."""
        found = complete_checkpoints(self._folder)
        return (found[-1], _position(found[-1])) if found else None

    def save(self, position: TrainingPosition) -> None:
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
        _set_weights(network, load_file(path / _WEIGHTS))

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
        for path in complete_checkpoints(self._folder)[:-_KEPT]:
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
        _set_weights(self._accelerator.unwrap_model(models[0]), load_file(Path(folder) / _WEIGHTS))
        models.clear()


def _set_weights(network: nn.Module, weights: dict[str, Tensor]) -> None:
    own: dict[str, Any] = dict(network.named_parameters())
    for name, value in weights.items():
        own[name].data.copy_(value)


def _position(path: Path) -> TrainingPosition:
    return TrainingPosition(**json.loads((path / _STATE).read_text(encoding="utf-8")))


def _position_key(position: TrainingPosition) -> tuple[int, int, bool]:
    return position.phase, position.step, position.finished


class RunLog:
    """Loss and learning rate of every step, as JSON lines and for TensorBoard; a resumed run drops what it will write again."""

    def __init__(self, folder: Path, main: bool) -> None:
        self._folder, self._main = folder, main
        self._path = folder / "log.jsonl"
        self._board: SummaryWriter | None = None

    def begin(self, phase: int, step: int) -> None:
        """Everything from this step on is new."""
        if not self._main:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        kept = [row for row in _rows(self._path) if (row["number"], row["step"]) < (phase, step)]
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        unfinished.replace(self._path)
        self.close()
        self._board = SummaryWriter(str(self._folder / "tensorboard" / f"phase-{phase}"), purge_step=step)

    def flush(self) -> None:
        """Nothing up to here is written again by a resumed run, so TensorBoard must have it."""
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """No more steps; everything is on disk."""
        if self._board is not None:
            self._board.close()

    def write(self, number: int, phase: PhaseRecipe, step: int, loss: float, rate: float) -> None:
        """One step. Raises TrainingError when the disk is full."""
        if not self._main or self._board is None:
            return
        row = {"number": number, "phase": phase.name, "step": step, "loss": loss, "learning_rate": rate}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise TrainingError(f"cannot write to {self._path}: {error}; free some room and run the same command again") from error
        self._board.add_scalar("loss", loss, step)
        self._board.add_scalar("learning_rate", rate, step)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return  # a full disk leaves half a line at the end; its step comes after the last checkpoint and is done again
