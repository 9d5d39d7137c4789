"""What a person says of their segments, as numbers of a bundle's letters. n segments, L letters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from model.evidence import Evidence, Kind
from model.types import Emotion
from train.scoring.metrics import Bools, Floats, Ints

NOT_SHOWN = -1
"""In the place of the letter shown, where nothing was shown or the bundle has no such letter."""


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """All of length n. said: what the person says. shown: what was shown to them, or NOT_SHOWN. corrected: the person said that it was
    wrong. weights: what each counts, over 0 to 1."""

    said: Ints
    shown: Ints
    corrected: Bools
    weights: Floats

    @classmethod
    def of(cls, pieces: Sequence[Evidence], letters: Sequence[Emotion]) -> Self:
        """Of segments whose emotions are all among the letters."""
        shown = [NOT_SHOWN if one.kind is Kind.CHECKIN or one.shown not in letters else letters.index(one.shown) for one in pieces]
        return cls(
            said=np.array([letters.index(one.emotion) for one in pieces], dtype=np.int64),
            shown=np.array(shown, dtype=np.int64),
            corrected=np.array([one.kind is Kind.CORRECTION for one in pieces], dtype=np.bool_),
            weights=np.array([one.weight for one in pieces], dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.said)

    def at(self, places: Ints | Bools) -> Self:
        """Some of them, by place or by mask."""
        return type(self)(self.said[places], self.shown[places], self.corrected[places], self.weights[places])
