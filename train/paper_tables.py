"""The paper's Tables 1 to 4 and its comparison of language models (A.1), trained and measured at the scale of a small recipe.

Cells that differ only in how a model is prompted share its training. Every training and every figure is kept in the work
folder, so that a stopped run can be resumed and a second run only writes the page beside the paper's figures.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.bundle_format import file_sha256
from model.errors import TrainingError
from model.predictor import PromptStyle
from model.prompts import Strategy
from train.corpora.splits import CorpusPart, CorpusSplits, all_utterances
from train.evaluation.evaluate import EvaluatedBundle, evaluate_bundle
from train.evaluation.figures import Evaluation
from train.learning.checkpoints import continue_from
from train.learning.trainer import TrainingMaterials, make_accelerator
from train.recipe import EncoderTraining, Recipe, SmallLlm, read_toml, to_recipe
from train.release import draft_bundle
from train.training import run_folder, run_key, train_or_load

_WHY_NOT = """**The two columns may not be compared.** The paper fine-tunes pre-trained models of 3.3 billion parameters on the
spontaneous podcast speech of hundreds of speakers, in eight emotions. Here a model a thousand times smaller, without any pre-training,
learns from the acted speech of a few speakers who say a few fixed sentences: the words tell nothing about the emotion, and its language
model knows little else than these sentences. What the paper finds about features, examples and transcripts can neither be confirmed
nor refuted at this size; the tables show that every cell can be trained and measured by this code. WavLM and wav2vec 2.0 live from
their pre-training: small ones from random weights, trained for some hundred steps, hear next to nothing, and what stands in their rows
says nothing about the real ones."""


class TableCell(BaseModel):
    """One figure of the paper: which table and row, what the paper has there, and what differs from the recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    row: str
    paper: float | None = None
    shots: Annotated[int, Field(ge=0, le=2)] = 1
    features: bool = False
    strategy: Strategy = Strategy.TRANSCRIPT_PREFIX
    encoder: str | None = None
    llm: str | None = None


def tables_page(figures: Sequence[tuple[TableCell, Sequence[Evaluation]]], recipe: Recipe, seed: int) -> str:
    """The Markdown page."""
    splits = [(one.about.split, one) for one in figures[0][1]]
    lines = [
        "# The paper's tables at nano's scale",
        "",
        "Made by `emosllm-monitor train tables --recipe nano`. Unweighted accuracy (UAR) with 95 % intervals by bootstrap over speakers,",
        f"then clips; one training a cell, seed {seed}. Nothing was chosen by these figures.",
        "",
        *(f"- Tested on {split}: {one.clips} clips, chance {one.chance:.3f}." for split, one in splits),
        f"- Trained by the recipe `{recipe.name}`: {', '.join(f'{p.name} {p.steps} steps of {p.batch}' for p in recipe.phases)}.",
        "",
        _WHY_NOT,
        "",
    ]
    for table, rows in groupby(figures, key=lambda figure: figure[0].table):
        lines += _table(table, list(rows), [one.about.split.split(",")[0] for _, one in splits])
    lines += _caution(figures)
    return "\n".join(lines).rstrip() + "\n"


def _table(title: str, rows: Sequence[tuple[TableCell, Sequence[Evaluation]]], corpora: Sequence[str]) -> list[str]:
    head = ["", *(f"{corpus}, here" for corpus in corpora), "unparsable", "word errors", "MSP-Podcast test1, paper"]
    lines = [f"## {title}", "", _row(head), _row(["---"] * len(head))]
    for cell, evaluations in rows:
        unparsable = max(one.unparsable_share for one in evaluations)
        written = [f"{one.word_error_rate:.2f}" for one in evaluations if one.word_error_rate is not None]
        paper = f"{cell.paper:.3f}" if cell.paper is not None else ""
        lines.append(_row([cell.row, *(_figure(one) for one in evaluations), f"{unparsable:.0%}", " / ".join(written), paper]))
    return [*lines, ""]


def _figure(evaluation: Evaluation) -> str:
    low, high = evaluation.uar.interval_95
    return f"{evaluation.uar.value:.3f} ({low:.2f} to {high:.2f})"


def _caution(figures: Sequence[tuple[TableCell, Sequence[Evaluation]]]) -> list[str]:
    """What a reader should know before seeing a ranking in the cells."""
    widest = max(one.uar.interval_95[1] - one.uar.interval_95[0] for _, evaluations in figures for one in evaluations)
    return [
        f"Every cell is one training with one seed, and an interval is up to {widest:.2f} wide: cells whose intervals overlap may not be"
        " ranked.",
        "",
    ]


def _row(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


logger = logging.getLogger(__name__)

_LAST_PHASE = -1


class PaperTables:
    """All cells, the recipe that they vary, and the data."""

    def __init__(
        self, recipe: Recipe, encoders: dict[str, Any], cells: list[TableCell], corpora: CorpusSplits, digest: str, work: Path, seed: int
    ) -> None:
        self._recipe, self._encoders, self.cells = recipe, encoders, cells
        self._corpora, self._digest, self._work, self._seed = corpora, digest, work, seed

    @classmethod
    def load(cls, name: str, manifests: Sequence[Path], work: Path, seed: int) -> Self:
        """A shipped tables recipe, by name, and its data. Raises TrainingError."""
        values = read_toml(name)
        try:
            cells = [TableCell.model_validate(cell) for cell in values.get("cells", [])]
        except ValidationError as error:
            raise TrainingError(f"the cells of {name} are not usable: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}") from error
        if not cells or "recipe" not in values:
            raise TrainingError(f"{name} holds no tables: it needs [recipe] and [[cells]]")
        recipe = to_recipe(values["recipe"], name)
        digest = hashlib.sha256(" ".join(file_sha256(manifest) for manifest in manifests).encode()).hexdigest()
        return cls(recipe, values.get("encoders", {}), cells, CorpusSplits.load(recipe, manifests), digest, work, seed)

    def run(self, out: Path) -> None:
        """Train and measure what is missing, then write the page."""
        figures = [(cell, self.measure(cell)) for cell in self.cells]
        out.write_text(tables_page(figures, self._recipe, self._seed), encoding="utf-8")
        print(out.read_text(encoding="utf-8"))

    def measure(self, cell: TableCell) -> list[Evaluation]:
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

    def recipe_of(self, cell: TableCell) -> Recipe:
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

    def _trained(self, recipe: Recipe) -> TrainingMaterials:
        """A cell's model. Cells differ in the last phase, so what comes before it is trained once, as a run of its own, for all."""
        parts, accelerator = self._corpora.train, make_accelerator(recipe)
        shared = recipe.model_copy(update={"phases": recipe.phases[:_LAST_PHASE], "release": self._recipe.release})
        train_or_load(shared, self._corpora, parts, self._work, self._seed, accelerator)
        mine, common = (run_folder(one, parts, self._work, self._seed) / "checkpoints" for one in (recipe, shared))
        continue_from(mine, common)
        return train_or_load(recipe, self._corpora, parts, self._work, self._seed, accelerator)

    def _evaluate(self, cell: TableCell, materials: TrainingMaterials, recipe: Recipe) -> list[Evaluation]:
        bundle = draft_bundle(recipe, materials)
        style = replace(PromptStyle.of(bundle), strategy=cell.strategy)
        asked = EvaluatedBundle(bundle, materials.llm.eval(), style)
        return [evaluate_bundle(asked, part.utterances, self._words(part), self._digest) for part in self._corpora.test if part.utterances]

    def _words(self, part: CorpusPart) -> str:
        speakers = sorted({u.speaker for u in all_utterances([part])})
        return f"{part.corpus}, {', '.join(speakers)}"
