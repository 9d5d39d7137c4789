"""The paper's Tables 1 to 4 and its comparison of language models (A.1), trained and measured at the scale of a small recipe.

Cells that differ only in how a model is asked share its training. Every training and every figure is kept in the work folder, so a
stopped run goes on, and a second one only writes the page.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from model.errors import TrainingError
from model.manifest import sha256
from model.predictor import Style
from train.corpora.splits import Corpora, Part, everyone
from train.learning.checkpoints import begin_from
from train.learning.trainer import Materials, make_accelerator
from train.recipe import EncoderTraining, Recipe, SmallLlm, read_toml, to_recipe
from train.release import draft
from train.scoring.evaluate import Asked, evaluate_bundle
from train.scoring.evaluation import Evaluation
from train.tables_page import Cell, page
from train.training import run_folder, run_key, trained

logger = logging.getLogger(__name__)

_LAST_PHASE = -1


class Tables:
    """All cells, the recipe that they vary, and the data."""

    def __init__(
        self, recipe: Recipe, encoders: dict[str, Any], cells: list[Cell], corpora: Corpora, digest: str, work: Path, seed: int
    ) -> None:
        self._recipe, self._encoders, self.cells = recipe, encoders, cells
        self._corpora, self._digest, self._work, self._seed = corpora, digest, work, seed

    @classmethod
    def load(cls, name: str, manifests: Sequence[Path], work: Path, seed: int) -> Self:
        """A shipped tables recipe, by name, and its data. Raises TrainingError."""
        values = read_toml(name)
        try:
            cells = [Cell.model_validate(cell) for cell in values.get("cells", [])]
        except ValidationError as error:
            raise TrainingError(f"the cells of {name} are not usable: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from error
        if not cells or "recipe" not in values:
            raise TrainingError(f"{name} holds no tables: it needs [recipe] and [[cells]]")
        recipe = to_recipe(values["recipe"], name)
        digest = hashlib.sha256(" ".join(sha256(manifest) for manifest in manifests).encode()).hexdigest()
        return cls(recipe, values.get("encoders", {}), cells, Corpora.load(recipe, manifests), digest, work, seed)

    def run(self, out: Path) -> None:
        """Train and measure what is missing, then write the page."""
        figures = [(cell, self.measure(cell)) for cell in self.cells]
        out.write_text(page(figures, self._recipe, self._seed), encoding="utf-8")
        print(out.read_text(encoding="utf-8"))

    def measure(self, cell: Cell) -> list[Evaluation]:
        """A cell's figures on each corpus's test part, made now or kept from before."""
        recipe = self.recipe_of(cell)
        key = f"{run_key(recipe, self._corpora.train, self._seed)}-{cell.strategy}-{cell.shots}-{cell.features}"
        kept = self._work / f"cell-{key}.json"
        if not kept.exists():
            logger.info("%s, %s", cell.table, cell.row)
            evaluations = self._evaluate(cell, self._trained(recipe), recipe)
            unfinished = kept.with_suffix(".unfinished")
            unfinished.write_text(json.dumps([one.model_dump(mode="json") for one in evaluations]), encoding="utf-8")
            unfinished.rename(kept)
        return [Evaluation.model_validate(one) for one in json.loads(kept.read_text(encoding="utf-8"))]

    def recipe_of(self, cell: Cell) -> Recipe:
        """The recipe with what a cell changes. Raises TrainingError for an encoder or language model that is not there."""
        changes: dict[str, Any] = {}
        if cell.encoder is not None:
            if cell.encoder not in self._encoders:
                raise TrainingError(f"a cell names the encoder {cell.encoder!r}; there are {', '.join(self._encoders) or 'none'}")
            changes["encoder"] = EncoderTraining.model_validate(self._encoders[cell.encoder])
        if cell.llm is not None:
            assert isinstance(self._recipe.llm, SmallLlm)
            changes["llm"] = SmallLlm.model_validate({**self._recipe.llm.model_dump(), "architecture": cell.llm})
        last = self._recipe.phases[_LAST_PHASE].model_copy(update={"shots": cell.shots, "features": cell.features})
        changes["phases"] = [*self._recipe.phases[:_LAST_PHASE], last]
        changes["release"] = self._recipe.release.model_copy(update={"features": cell.features, "shots": cell.shots})
        return self._recipe.model_copy(update=changes)

    def _trained(self, recipe: Recipe) -> Materials:
        """A cell's model. Cells differ in the last phase, so what comes before it is trained once, as a run of its own, for all."""
        parts, accelerator = self._corpora.train, make_accelerator(recipe)
        shared = recipe.model_copy(update={"phases": recipe.phases[:_LAST_PHASE], "release": self._recipe.release})
        trained(shared, self._corpora, parts, self._work, self._seed, accelerator)
        mine, common = (run_folder(one, parts, self._work, self._seed) / "checkpoints" for one in (recipe, shared))
        begin_from(mine, common)
        return trained(recipe, self._corpora, parts, self._work, self._seed, accelerator)

    def _evaluate(self, cell: Cell, materials: Materials, recipe: Recipe) -> list[Evaluation]:
        bundle = draft(recipe, materials)
        style = replace(Style.of(bundle), strategy=cell.strategy)
        asked = Asked(bundle, materials.llm.eval(), style)
        return [evaluate_bundle(asked, part.utterances, self._words(part), self._digest) for part in self._corpora.test if part.utterances]

    def _words(self, part: Part) -> str:
        speakers = sorted({u.speaker for u in everyone([part])})
        return f"{part.corpus}, {', '.join(speakers)}"
