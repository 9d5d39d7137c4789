"""When a round has learned enough: once labels that it does not learn from are not answered better any more. Keeps the best weights.

Weights are looked at, and kept, part of the way from where they began: that keeps most of what was learned and forgets little of what
was known (Wortsman et al., 2022, "Robust fine-tuning of zero-shot models").
"""

import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.errors import TrainingError

logger = logging.getLogger(__name__)

_WEIGHTS, _STATE = "best.safetensors", "best.json"


class Stopping:
    """Early stopping (Prechelt, 1998) over checkpoints; what it knows is kept in `folder`, so that a stopped night goes on.

    network: as it begins; what may learn takes gradients. score: of the network as it is, the more the better. patience: checkpoints
    without a better one before it is enough. way: how much of the way is gone, over 0 to 1.
    """

    def __init__(self, network: nn.Module, folder: Path, score: Callable[[], float], patience: int, way: float) -> None:
        self._folder, self._score, self._patience, self._way = folder, score, patience, way
        self._network = network
        self._learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._begin = {name: p.detach().clone() for name, p in self._learning.items()}
        folder.mkdir(parents=True, exist_ok=True)
        self._best, self.steps, self._waited = self._begun()

    def look(self, steps: int) -> bool:
        """To be called when so many steps are done; True when it is enough. Raises TrainingError when the disk is full."""
        reached = {name: p.detach().clone() for name, p in self._learning.items()}
        self._put({name: self._begin[name] + self._way * (value - self._begin[name]) for name, value in reached.items()})
        self._network.eval()
        found = self._score()
        logger.info("after %d steps: %.3f on the labels that say when to stop, %.3f before", steps, found, self._best)
        if found > self._best:
            self._best, self.steps, self._waited = found, steps, 0
            self._keep()
        else:
            self._waited += 1
        self._note()
        self._put(reached)
        return self._waited >= self._patience

    def take_best(self) -> None:
        """Put the best weights into the network."""
        self._put(load_file(self._folder / _WEIGHTS))
        self._network.eval()

    def go_back(self) -> None:
        """Put the weights into the network that it began with."""
        self._put(self._begin)

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            self._learning[name].data.copy_(value)

    def _begun(self) -> tuple[float, int, int]:
        try:
            known = json.loads((self._folder / _STATE).read_text(encoding="utf-8"))
            return known["best"], known["steps"], known["waited"]
        except (OSError, ValueError, KeyError):
            self._best, self.steps, self._waited = -math.inf, 0, 0
            self.look(0)
            return self._best, self.steps, self._waited

    def _keep(self) -> None:
        weights = {name: p.detach().cpu().contiguous() for name, p in self._learning.items()}
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
