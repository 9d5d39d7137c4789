"""Recipes: everything a training run depends on but the data itself, as TOML. Unknown keys are refused."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import TrainingError
from model.manifest import MapperSettings
from model.types import Emotion

_SHIPPED = Path(__file__).parent / "recipes"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CorpusShare(_Section):
    """One corpus: the speakers of each split, and how many of a batch's clips come from it.

    validation: left out of the first of two trainings, for choosing and calibrating. test: never trained or tuned on.
    """

    name: str
    share: Annotated[int, Field(ge=1)]
    train: list[str]
    validation: list[str]
    test: list[str] = []


class EncoderRecipe(_Section):
    """How the encoder is trained as a classifier before it is frozen."""

    steps: Annotated[int, Field(ge=1)]
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    mixup: float
    average_decay: float
    dropout: Annotated[float, Field(ge=0, lt=1)]


class LlmRecipe(_Section):
    """Sizes of a language model that starts from random weights."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int


class PhaseRecipe(_Section):
    """One phase of the curriculum: which parts learn, from what, for how long.

    input: speech of the corpora, or noise in its place, from which only the form of an answer can be learned.
    """

    name: str
    trainable: list[Literal["mapper", "llm", "lora"]]
    input: Literal["speech", "noise"]
    steps: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]
    learning_rate: float
    weight_decay: float
    warmup: Annotated[float, Field(ge=0, lt=1)]
    teacher_share: Annotated[float, Field(ge=0, le=1)]


class Recipe(_Section):
    """A whole run. speeds: playback rates at which every clip is used; trusted_accuracy: what the sure part must reach."""

    name: str
    license: str
    limits: list[str]
    letters: list[Emotion]
    speeds: list[float]
    trusted_accuracy: float
    corpora: list[CorpusShare]
    encoder: EncoderRecipe
    mapper: MapperSettings
    llm: LlmRecipe
    phases: list[PhaseRecipe]


def load_recipe(name: str) -> Recipe:
    """A shipped recipe by name, or a TOML file by path. Raises TrainingError naming the key that is wrong."""
    path = Path(name) if name.endswith(".toml") else _SHIPPED / f"{name}.toml"
    try:
        return Recipe.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        shipped = ", ".join(sorted(file.stem for file in _SHIPPED.glob("*.toml")))
        raise TrainingError(f"no recipe {name!r}: name a .toml file or one of the shipped: {shipped}") from error
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise TrainingError(f"the recipe {path} is not usable: {error}") from error
