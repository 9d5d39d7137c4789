"""Commands that make and score models: handed on to a process of their own, as the monitor never imports training."""

import subprocess
import sys

import typer


def corpus(context: typer.Context) -> None:
    """Make a manifest of a speech corpus (its options: emosllm-monitor corpus prepare --help)."""
    _run_train("corpus", context.args)


def train(context: typer.Context) -> None:
    """Train a bundle from a recipe (its options: emosllm-monitor train --help)."""
    _run_train("train", context.args)


def evaluate(context: typer.Context) -> None:
    """Score a bundle on test speakers (its options: emosllm-monitor evaluate --help)."""
    _run_train("evaluate", context.args)


def compare(context: typer.Context) -> None:
    """Set evaluations of several systems side by side (its options: emosllm-monitor compare --help)."""
    _run_train("compare", context.args)


def _run_train(command: str, arguments: list[str]) -> None:
    # -P: a file named train.py here must not be taken for it.
    raise typer.Exit(subprocess.run([sys.executable, "-P", "-m", "train", command, *arguments], check=False).returncode)
