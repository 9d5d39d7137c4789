"""README and docs/: generated pages are current, examples run, links lead somewhere, and figures are those of the bundle."""

import re
import tomllib
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from typer.main import get_command

from docs import commands
from model.bundle_format import find_bundle, read_bundle_manifest
from monitor.analysis.trend import MEASURES
from monitor.cli.main import app
from monitor.config import Config
from monitor.storage.records import Coverage
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
DOCUMENTS = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("deploy/*.md"), *ROOT.glob("examples/*.md"), ROOT / "train/README.md"]


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"))


def test_the_page_of_commands_is_what_the_program_says() -> None:
    assert _text("docs/commands.md") == commands.page(), "run: python -m docs.commands"


def test_every_command_and_section_is_explained() -> None:
    text = _text("docs/commands.md")
    for command in app.registered_commands:
        assert command.callback is not None
        assert command.callback.__doc__, "a command without help"
        assert f"emosllm-monitor {command.name or command.callback.__name__}" in text
    for section in Config.model_fields:
        assert f"[{section}]" in _text("config.toml")
    assert "config.toml" in _text("README.md")


def test_commands_in_the_documents_exist() -> None:
    known: dict[str, Any] = dict(get_command(app).commands)  # type: ignore[attr-defined]
    for document in DOCUMENTS:
        for block in _blocks(document, "sh"):
            for name, below in re.findall(r"(?:^|/|\s)emosllm-monitor ([a-z-]+)(?: ([a-z-]+))?", block):
                assert name in known, f"{document.name}: {name}"
                others = getattr(known[name], "commands", None)
                if others and not known[name].invoke_without_command:
                    assert below in others, f"{document.name}: {name} {below}"


def test_the_readme_is_short_and_has_its_picture() -> None:
    assert len(_text("README.md").split()) <= 800
    picture = (DOCS / "dashboard.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 300_000
    assert "(docs/dashboard.png)" in _text("README.md")


def test_figures_are_those_that_the_bundle_was_released_with() -> None:
    score = read_bundle_manifest(find_bundle("compact")).scores[0]
    low, high = score.interval_95
    for document, digits in (("README.md", 2), ("docs/model.md", 3)):
        parts = (f"{score.unweighted_accuracy:.{digits}f}", f"{low:.2f}", f"{high:.2f}", f"{score.chance:.{digits}f}", "CC BY-NC-SA 4.0")
        for part in parts:
            assert part in _text(document), document


def test_the_page_of_statistics_names_what_there_is() -> None:
    text = _text("docs/statistics.md")
    assert f"{len(MEASURES)} measures" in text
    for kind in Coverage:
        assert f"| {kind.value} |" in text


def test_links_in_the_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", document.read_text(encoding="utf-8")):
            place = document.parent / target if target else document
            assert place.exists(), f"{document.name} links to {target}"
            if anchor:
                assert anchor in _anchors(place), f"{document.name} links to {target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_files_that_the_pages_name_are_there() -> None:
    for document in (*DOCS.glob("*.md"), ROOT / "CONTRIBUTING.md"):
        for name in re.findall(r"`((?:bench|docs|model|monitor|tests|train)/[\w./]+)`", document.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{document.name} names {name}"


@pytest.mark.parametrize("document", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_settings_in_the_pages_are_valid(document: Path) -> None:
    for block in _blocks(document, "toml"):
        Config.model_validate(tomllib.loads(block))


EXAMPLES = re.split(r"(?m)^## ", _text("docs/development.md"))[1:]


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.splitlines()[0] for example in EXAMPLES])
def test_worked_examples_run(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model import encoders
    from train.corpora import layouts

    (code,) = re.findall(r"(?ms)^```python\n(.*?)^```", example)
    monkeypatch.chdir(tmp_path)
    with patch.dict(encoders._PROJECT_ENCODERS), patch.dict(layouts.CORPORA):
        exec(compile(code, example.splitlines()[0], "exec"), {"__name__": "example"})
