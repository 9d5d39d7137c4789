"""How a night learns: night.toml, read and checked."""

import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from train.recipe import Count, LoopRecipe, PhaseRecipe, Share

_FILE = Path(__file__).parent / "night.toml"


class NightSettings(BaseModel):
    """See night.toml, which has a line on each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folds: Annotated[int, Field(ge=2)]
    least_labels: Count
    least_corrections: Annotated[int, Field(ge=0)]
    bias_spread: Annotated[float, Field(gt=0)]
    stopping: Annotated[float, Field(gt=0, lt=1)]
    own_share: Annotated[float, Field(gt=0, lt=1)]
    smoothing: Share
    views: Count
    patience: Count
    way: Annotated[float, Field(gt=0, le=1)]
    loop: LoopRecipe
    phase: PhaseRecipe

    @classmethod
    def load(cls) -> Self:
        """As shipped."""
        return cls.model_validate(tomllib.loads(_FILE.read_text(encoding="utf-8")))
