"""Early stopping of a nightly retraining: training ends once labels that it does not learn from are clearly predicted worse.

Weights are checked, and kept, part of the way from where they began, which keeps most of what was learned and forgets little of what was
known (Wortsman et al., 2022, "Robust fine-tuning of zero-shot models"). The labels that decide are few, so the best check is mostly luck:
the last one is kept that is not worse than the best by more than the standard error of their difference (the one-standard-error rule of
Breiman et al., 1984, applied towards more learning, because short nights learn too little).
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.errors import TrainingError

logger = logging.getLogger(__name__)

_STATE = "looks.json"


class EarlyStopping:
    """Early stopping (Prechelt, 1998) over checkpoints; what it knows is kept in `folder`, so that a stopped night goes on.

    network: as it begins; what may learn takes gradients. score: what the network as it is scores on each label, the more the better.
    patience: looks in a row that are clearly worse than the best before it is enough. way: how much of the way is gone, over 0 to 1.
    until: so many steps are enough, and kept, whatever the score, which is not asked for then.
    """

    def __init__(
        self,
        network: nn.Module,
        folder: Path,
        score: Callable[[], Iterable[float]],
        patience: int,
        way: float,
        until: int | None = None,
    ) -> None:
        self._folder, self._score, self._patience, self._way, self._until = folder, score, patience, way, until
        self._network = network
        self._learning = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._begin = {name: p.detach().clone() for name, p in self._learning.items()}
        folder.mkdir(parents=True, exist_ok=True)
        self._looks = self._known()
        if not self._looks:
            self.look(0)

    @property
    def steps(self) -> int:
        """Of the weights that are kept."""
        if self._until is not None:
            return self._until
        return [steps for steps in self._looks if self._as_good_as_the_best(steps)][-1]

    def look(self, steps: int) -> bool:
        """To be called when so many steps are done; True when it is enough. Raises TrainingError when the disk is full."""
        if steps not in self._looks:
            self._look(steps)
        if self._until is not None:
            return steps >= self._until
        last = list(self._looks)[-self._patience :]
        return len(self._looks) > self._patience and not any(self._as_good_as_the_best(look) for look in last)

    def restore_best(self) -> None:
        """Put the weights that are kept into the network."""
        self._put(load_file(self._weights(self.steps)))
        self._network.eval()

    def restore_initial(self) -> None:
        """Put the weights into the network that it began with."""
        self._put(self._begin)

    def _look(self, steps: int) -> None:
        reached = {name: p.detach().clone() for name, p in self._learning.items()}
        shown = {name: self._begin[name] + self._way * (value - self._begin[name]) for name, value in reached.items()}
        self._put(shown)
        self._network.eval()
        found = [float(value) for value in self._score()] if self._until is None else []
        self._put(reached)
        self._keep(steps, shown)
        self._looks[steps] = found
        self._note()
        if found:
            logger.info("after %d steps: %.3f on the labels that say when to stop", steps, np.mean(found))

    def _as_good_as_the_best(self, steps: int) -> bool:
        """Within a standard error of the difference."""
        best = max(self._looks.values(), key=lambda scores: float(np.mean(scores)))
        worse = np.array(best) - np.array(self._looks[steps])
        if len(worse) < 2:
            return True
        return bool(worse.mean() <= worse.std(ddof=1) / np.sqrt(len(worse)))

    def _put(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            self._learning[name].data.copy_(value)

    def _known(self) -> dict[int, list[float]]:
        try:
            looks = json.loads((self._folder / _STATE).read_text(encoding="utf-8"))
            return {int(steps): scores for steps, scores in looks.items()}
        except (OSError, ValueError):
            return {}

    def _weights(self, steps: int) -> Path:
        return self._folder / f"look-{steps:04d}.safetensors"

    def _keep(self, steps: int, weights: Mapping[str, Tensor]) -> None:
        place = self._weights(steps)
        fresh = place.with_name(f".{place.name}")
        try:
            save_file({name: value.cpu().contiguous() for name, value in weights.items()}, fresh)
            fresh.replace(place)
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"cannot keep the night's weights in {self._folder} ({error}); free some room there") from error

    def _note(self) -> None:
        fresh = self._folder / f".{_STATE}"
        fresh.write_text(json.dumps(self._looks), encoding="utf-8")
        fresh.replace(self._folder / _STATE)
