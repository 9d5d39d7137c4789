"""What a run writes down about every step, as JSON lines and for TensorBoard."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from model.errors import TrainingError
from train.recipe import PhaseRecipe


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
