"""How far a long stage is: a bar on a terminal, a line now and then elsewhere and in workers. Both go to stderr."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from train.workers import is_worker

logger = logging.getLogger(__name__)

_LINE_EVERY_S = 15.0


class Progress:
    """A stage of `total` steps. `shown` is False on all but one of several processes."""

    def __init__(self, name: str, total: int, done: int = 0, shown: bool = True) -> None:
        self._name, self._total, self._shown = name, total, shown
        self._line_at = 0.0
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            # Bars of several processes on one terminal would overwrite each other.
            disable=not shown or not sys.stderr.isatty() or is_worker(),
        )
        self._task = self._bar.add_task(name, total=total, completed=done, detail="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def advance(self, step: int, loss: float | None = None) -> None:
        """Step `step`, counted from 0, is done."""
        detail = "" if loss is None else f"loss {loss:.3f}"
        self._bar.update(self._task, completed=step + 1, detail=detail)
        now = time.monotonic()
        if self._shown and self._bar.disable and (now - self._line_at > _LINE_EVERY_S or step + 1 == self._total):
            self._line_at = now
            logger.info("%s: %d of %d %s", self._name, step + 1, self._total, detail)
