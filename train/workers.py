"""Processes that work side by side, and end when the one that started them does, however it ended."""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import Any


def worker_pool(count: int, begin: Callable[..., None], arguments: tuple[Any, ...]) -> ProcessPoolExecutor:
    """`count` fresh processes, in each of which `begin(*arguments)` is called first.

    They are spawned, because a process that has used torch's threads must not be forked. Without the watch, workers of a killed parent
    would train on for nobody, or wait for ever.
    """
    return ProcessPoolExecutor(count, get_context("spawn"), _begin, (begin, arguments))


def is_worker() -> bool:
    """Whether this process was started by another one of this program."""
    return parent_process() is not None


def _begin(begin: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    begin(*arguments)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
