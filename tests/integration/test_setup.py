"""The set-up says what is wrong and what to do: without network, with a Python that does not fit, with a name that is none."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

NOWHERE = "http://127.0.0.1:9/simple"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What set-up reads, without an environment."""
    shutil.copytree(ROOT / "setup", tmp_path / "setup")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def _set_up(checkout: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Off the network: no index, no folder of wheels, nothing that pip keeps.
    offline = {
        "PIP_INDEX_URL": NOWHERE,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
        "EMOSLLM_FLAVOUR": "cpu",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    command = ["bash", str(checkout / "setup/bootstrap.sh"), *words]
    return subprocess.run(command, env={**kept, **offline, **environment}, capture_output=True, text=True, check=False)


def test_without_network_it_says_so_and_that_it_can_go_on(checkout: Path) -> None:
    done = _set_up(checkout)
    assert done.returncode == 1
    assert "virtual environment" in done.stdout
    assert "The last lines of" in done.stdout
    assert "Is the network there?" in done.stderr
    assert "run the same command again: it continues where it stopped" in done.stderr
    assert not (checkout / ".venv/ready").exists()


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (["everything"], {}, "There is no extra 'everything'; there are clinic, reports"),
        ([], {"EMOSLLM_FLAVOUR": "tpu"}, "EMOSLLM_FLAVOUR is 'tpu'; it must be cpu or gpu."),
        ([], {"EMOSLLM_PYTHON": "/bin/true"}, "CPython 3.11, 3.12, 3.13 or 3.14 is needed; /bin/true is none."),
    ],
)
def test_what_cannot_be_meant_is_named_before_anything_is_made(
    words: list[str], environment: dict[str, str], message: str, checkout: Path
) -> None:
    done = _set_up(checkout, *words, **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_second_set_up_waits_for_the_first(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    with subprocess.Popen(["flock", str(checkout / ".venv/lock"), "sleep", "2"]):
        assert "Another set-up is at work here; waiting for it." in _set_up(checkout).stdout


def test_what_was_asked_for_once_stays_asked_for(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv/extras").write_text("base\nreports\n")
    assert "for CPU with base, reports, train" in _set_up(checkout, "train").stdout


def test_the_extras_that_set_up_names_are_those_of_the_project() -> None:
    script = (ROOT / "setup/bootstrap.sh").read_text(encoding="utf-8")
    (named,) = re.findall(r"there are ([a-z, ]+) and tests\.", script)
    declared = re.findall(r"(?m)^([a-z]+) = \[", (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1])
    assert set(named.split(", ")) == set(declared[: declared.index("tests")]) - {"cpu", "gpu"}
