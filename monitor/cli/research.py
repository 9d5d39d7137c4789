"""Research: corpus, train, evaluate and compare, each run in a process of its own because the monitor never imports training."""

import subprocess
import sys

import typer


def corpus(context: typer.Context) -> None:
    """Prepare a speech corpus. Options: emosllm-monitor corpus prepare --help."""
    _run_training("corpus", context.args)


def train(context: typer.Context) -> None:
    """Train a bundle from a recipe. Options: emosllm-monitor train --help."""
    _run_training("train", context.args)


def evaluate(context: typer.Context) -> None:
    """Evaluate a bundle on test speakers. Options: emosllm-monitor evaluate --help."""
    _run_training("evaluate", context.args)


def compare(context: typer.Context) -> None:
    """Compare evaluations of several systems. Options: emosllm-monitor compare --help."""
    _run_training("compare", context.args)


def _run_training(command: str, arguments: list[str]) -> None:
    # -P: a file named train.py here must not be taken for it.
    raise typer.Exit(subprocess.run([sys.executable, "-P", "-m", "train", command, *arguments], check=False).returncode)
