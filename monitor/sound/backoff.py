"""How long to wait before what failed is tried again: a little at first, then longer, for ever. It knows no clock."""

import itertools
from typing import Final

_PAUSES_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)


class Backoff:
    """Pauses of 0.5, 1, 2, 5 and 10 s, then 10 s each time until something worked."""

    def __init__(self) -> None:
        self.reset()

    def next_s(self) -> float:
        """Seconds to wait before the next try."""
        return next(self._pauses)

    def reset(self) -> None:
        """It worked: the next failure is a first one again. To be called once sound has come, not when opening succeeded."""
        self._pauses = itertools.chain(_PAUSES_S, itertools.repeat(_PAUSES_S[-1]))
