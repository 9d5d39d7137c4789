"""When a night has learned enough: once labels that it does not learn from are not answered better any more. Keeps the best weights."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from model.errors import TrainingError

logger = logging.getLogger(__name__)

_WEIGHTS, _STATE = "best.safetensors", "best.json"


class Stopping:
    """Early stopping (Prechelt, 1998) over checkpoints; what it knows is kept in `folder`, so that a stopped night goes on.

    score: of the network as it is, the more the better. patience: checkpoints without a better one before it is enough.
    """

    def __init__(self, network: nn.Module, folder: Path, score: Callable[[], float], patience: int) -> None:
        self._network, self._folder, self._score, self._patience = network, folder, score, patience
        folder.mkdir(parents=True, exist_ok=True)
        self._best, self.steps, self._waited = self._begun()

    def look(self, steps: int) -> bool:
        """To be called when so many steps are done; True when it is enough. Raises TrainingError when the disk is full."""
        self._network.eval()
        found = self._score()
        logger.info("after %d steps: %.3f on the labels that say when to stop, %.3f before", steps, found, self._best)
        if found > self._best:
            self._best, self.steps, self._waited = found, steps, 0
            self._keep()
        else:
            self._waited += 1
        self._note()
        return self._waited >= self._patience

    def take_best(self) -> None:
        """Put the best weights into the network."""
        own = dict(self._network.named_parameters())
        for name, value in load_file(self._folder / _WEIGHTS).items():
            own[name].data.copy_(value)
        self._network.eval()

    def _begun(self) -> tuple[float, int, int]:
        try:
            known = json.loads((self._folder / _STATE).read_text(encoding="utf-8"))
            return known["best"], known["steps"], known["waited"]
        except (OSError, ValueError, KeyError):
            self._best, self.steps, self._waited = -math.inf, 0, 0
            self.look(0)
            return self._best, self.steps, self._waited

    def _keep(self) -> None:
        weights = {name: p.detach().cpu().contiguous() for name, p in self._network.named_parameters() if p.requires_grad}
        fresh = self._folder / f".{_WEIGHTS}"
        try:
            save_file(weights, fresh)
            fresh.replace(self._folder / _WEIGHTS)
        except OSError as error:
            raise TrainingError(f"cannot keep the night's weights in {self._folder}: {error}") from error

    def _note(self) -> None:
        fresh = self._folder / f".{_STATE}"
        fresh.write_text(json.dumps({"best": self._best, "steps": self.steps, "waited": self._waited}), encoding="utf-8")
        fresh.replace(self._folder / _STATE)
