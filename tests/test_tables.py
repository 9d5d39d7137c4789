"""The paper's tables, trained and measured for real on a corpus of tones."""

import json
import re
from pathlib import Path

import pytest

from model.errors import TrainingError
from model.prompts import Strategy
from tests.tones import QUICK, write_corpus
from train.recipe import load_recipe
from train.tables import Tables
from train.tables_page import Cell

CELLS = """
[encoders.small]
kind = "wav2vec2"
steps = 2
learning_rate = 1e-3
weight_decay = 0.01
label_smoothing = 0.05
mixup = 0.2
average_decay = 0.9
dropout = 0.1
[[cells]]
table = "Strategies"
row = "ser"
paper = 0.417
strategy = "ser"
[[cells]]
table = "Strategies"
row = "transcript-prefix"
paper = 0.497
[[cells]]
table = "Shots"
row = "0"
shots = 0
[[cells]]
table = "Features"
row = "with"
features = true
shots = 2
[[cells]]
table = "Parts"
row = "other encoder and language model"
encoder = "small"
llm = "qwen3"
"""


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    manifest = write_corpus(tmp_path)
    nested = re.sub(r"(?m)^(\[+)", r"\1recipe.", QUICK)
    (tmp_path / "tones-tables.toml").write_text(f"[recipe]\n{nested}\n{CELLS}")
    return Tables.load(str(tmp_path / "tones-tables.toml"), [manifest], tmp_path / "work", 0)


def test_every_cell_is_trained_once_measured_and_set_beside_the_papers_figure(tables: Tables, tmp_path: Path) -> None:
    tables.run(tmp_path / "RESULTS.md")
    page = (tmp_path / "RESULTS.md").read_text()
    for text in ("may not be compared", "| ser |", "0.417", "0.497", "## Parts", "Tested on tones"):
        assert text in page
    runs = [path for path in (tmp_path / "work").glob("quick-*") if (path / "log.jsonl").exists()]
    phases = sorted(len({json.loads(line)["number"] for line in (path / "log.jsonl").read_text().splitlines()}) for path in runs)
    assert phases == [1] * 6, "the first phase twice, for both kinds of parts; the last for 0 and 1 example, features and the other parts"
    assert sum((path / "checkpoints").exists() for path in runs) == 6
    one_of_them = (tmp_path / "work").glob("cell-*.json")
    kept = {path: path.stat().st_mtime_ns for path in one_of_them}
    assert len(kept) == 5
    tables.run(tmp_path / "RESULTS.md")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "nothing is measured twice"


def test_a_cell_changes_what_it_says_and_nothing_else(tables: Tables) -> None:
    plain = tables.recipe_of(Cell(table="t", row="r", shots=0))
    assert tables.recipe_of(Cell(table="t", row="r", shots=0, strategy=Strategy.SER)) == plain
    features = tables.recipe_of(Cell(table="t", row="r", shots=0, features=True))
    assert features.phases[-1].features
    assert features.phases[:-1] == plain.phases[:-1]
    with pytest.raises(TrainingError, match="small"):
        tables.recipe_of(Cell(table="t", row="r", encoder="large"))


def test_the_shipped_tables_hold_the_papers_figures() -> None:
    import tomllib

    from train.recipe import SHIPPED, to_recipe

    values = tomllib.loads((SHIPPED / "nano-tables.toml").read_text())
    figures = {(cell["table"].split(":")[0], cell["row"].split(" (")[0]): cell.get("paper") for cell in values["cells"]}
    assert figures["Table 1", "with"] == 0.469
    assert figures["Table 2", "2 shots"] == 0.474
    assert figures["Table 3", "transcript-prefix"] == 0.497
    assert figures["Table 4", "wav2vec 2.0"] == 0.471
    recipe, nano = to_recipe(values["recipe"], "nano-tables"), load_recipe("nano")
    assert recipe.corpora[0].test == nano.corpora[0].test
    assert [phase.name for phase in recipe.phases] == ["base", "P1", "P2", "P3"]
