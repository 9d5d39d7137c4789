"""Several evaluations side by side, as in the paper's Figure 2: accuracy against the number of parameters."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from model.errors import TrainingError
from train.scoring import plots
from train.scoring.evaluation import Evaluation


def read(folders: Sequence[Path]) -> list[Evaluation]:
    """What `evaluate --out FOLDER` wrote. Raises TrainingError for a folder without it, and for evaluations on different clips."""
    found = [_read(folder) for folder in folders]
    measured_on = {(one.about.manifest_sha256, one.about.split) for one in found}
    if len(measured_on) > 1:
        splits = "; ".join(sorted(split for _, split in measured_on))
        raise TrainingError(f"these evaluations are not of the same clips and may not be compared: {splits}")
    return found


def to_markdown(evaluations: Sequence[Evaluation]) -> str:
    """One row a system, the best first."""
    rows = [
        f"| {one.about.system} | {_size(one)} | {one.about.strategy} | {one.uar.value:.3f} |"
        f" {one.uar.interval_95[0]:.3f} to {one.uar.interval_95[1]:.3f} | {one.unparsable_share:.1%} |"
        for one in sorted(evaluations, key=lambda one: -one.uar.value)
    ]
    first = evaluations[0]
    head = ["| system | parameters | strategy | UAR | 95 % interval | unparsable |", "| --- | --- | --- | --- | --- | --- |"]
    return "\n".join([f"{first.about.split}: {first.clips} clips, chance {first.chance:.3f}", "", *head, *rows]) + "\n"


def draw(evaluations: Sequence[Evaluation], path: Path) -> None:
    """The figure; systems of unknown size cannot stand in it. Raises TrainingError when none is left, or it cannot be written."""
    points = [
        (one.about.system, one.about.parameters / 1e9, one.uar.value, one.uar.interval_95)
        for one in evaluations
        if one.about.parameters is not None
    ]
    if not points:
        raise TrainingError("none of these evaluations knows its number of parameters; give --parameters to evaluate")
    try:
        plots.comparison(points, path)
    except (OSError, ValueError) as error:
        raise TrainingError(f"cannot write {path}: {error}") from error


def _read(folder: Path) -> Evaluation:
    path = folder / "evaluation.json"
    try:
        return Evaluation.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise TrainingError(f"{path} is no evaluation ({error}); make one with evaluate --out {folder}") from error


def _size(evaluation: Evaluation) -> str:
    return "not known" if evaluation.about.parameters is None else f"{evaluation.about.parameters / 1e6:,.1f} M"
