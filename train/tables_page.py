"""Writes the tables' figures beside the paper's, with what keeps the two apart."""

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from model.prompts import Strategy
from train.recipe import Recipe
from train.scoring.evaluation import Evaluation

_WHY_NOT = """**The two columns may not be compared.** The paper fine-tunes pre-trained models of 3.3 billion parameters on the
spontaneous podcast speech of hundreds of speakers, in eight emotions. Here a model a thousand times smaller, without any pre-training,
learns from the acted speech of a few speakers who say a few fixed sentences: the words tell nothing about the emotion, and its language
model knows little else than these sentences. What the paper finds about features, examples and transcripts can neither be confirmed
nor refuted at this size; the tables show that every cell can be trained and measured by this code. WavLM and wav2vec 2.0 live from
their pre-training: small ones from random weights, trained for some hundred steps, hear next to nothing, and what stands in their rows
says nothing about the real ones."""


class Cell(BaseModel):
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


def page(figures: Sequence[tuple[Cell, Sequence[Evaluation]]], recipe: Recipe, seed: int) -> str:
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


def _table(title: str, rows: Sequence[tuple[Cell, Sequence[Evaluation]]], corpora: Sequence[str]) -> list[str]:
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


def _caution(figures: Sequence[tuple[Cell, Sequence[Evaluation]]]) -> list[str]:
    """What a reader should know before seeing a ranking in the cells."""
    widest = max(one.uar.interval_95[1] - one.uar.interval_95[0] for _, evaluations in figures for one in evaluations)
    return [
        f"Every cell is one training with one seed, and an interval is up to {widest:.2f} wide: cells whose intervals overlap may not be"
        " ranked.",
        "",
    ]


def _row(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"
