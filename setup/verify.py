"""Imports what the monitor stands on, in one process, and says which import fails and why.

A package can be installed and still not load: a missing system library, a build for other hardware.
"""

import importlib
import sys

MODULES = ("torch", "transformers", "vllm", "peft", "pyaudio", "webrtcvad")


def failure(module: str) -> str | None:
    """The reason that a module does not load, in one line; None when it does."""
    try:
        loaded = importlib.import_module(module)
        if module == "vllm":
            _ = loaded.LLM  # importing vllm itself loads next to nothing
    except Exception as error:  # a wrong build raises anything: OSError, RuntimeError, AttributeError
        reason = str(error).strip().splitlines() or [""]
        return f"{module} does not load: {type(error).__name__}: {reason[0]}"
    return None


def main() -> int:
    failures = [line for module in MODULES if (line := failure(module))]
    # Last, so that they stand at the end of the log, after whatever the libraries print.
    print(*failures, sep="\n", file=sys.stderr, flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
