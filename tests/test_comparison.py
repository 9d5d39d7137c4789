"""Evaluations side by side: the paper's Figure 2 from what `evaluate --out` left."""

from pathlib import Path

import pytest
from matplotlib.image import imread

from tests.commands import run
from tests.test_results import CLIPS, LETTERS, about
from train.scoring.evaluation import About
from train.scoring.page import write
from train.scoring.results import evaluate


def _stored(folder: Path, **changes: object) -> str:
    write(folder, evaluate(CLIPS, LETTERS, About.model_validate({**about().model_dump(), **changes})))
    return str(folder)


def test_systems_are_listed_with_their_size_and_drawn(tmp_path: Path) -> None:
    folders = [
        _stored(tmp_path / "ours", system="small one", parameters=3_335_852_912),
        _stored(tmp_path / "theirs", system="large one", parameters=8_397_094_912, strategy="zero-shot"),
        _stored(tmp_path / "unknown", system="nobody knows", parameters=None),
    ]
    done = run("compare", *folders, "--out", str(tmp_path / "figure.png"))
    assert done.returncode == 0, done.stderr
    assert "| large one | 8,397.1 M | zero-shot |" in done.stdout
    assert "| nobody knows | not known |" in done.stdout
    assert imread(tmp_path / "figure.png").shape[0] > 400


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"split": "another"}, "may not be compared"), ({"manifest_sha256": "cd" * 32}, "may not be compared")],
)
def test_what_was_measured_on_other_clips_is_not_compared(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    done = run("compare", _stored(tmp_path / "one"), _stored(tmp_path / "two", **changes))
    assert done.returncode == 1
    assert reason in done.stderr


def test_a_folder_without_an_evaluation_and_one_without_sizes_are_told(tmp_path: Path) -> None:
    missing = run("compare", str(tmp_path / "nothing"))
    assert "make one with evaluate --out" in missing.stderr
    sizeless = run("compare", _stored(tmp_path / "x", parameters=None), "--out", str(tmp_path / "figure.png"))
    assert "give --parameters" in sizeless.stderr
