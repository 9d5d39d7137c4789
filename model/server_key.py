"""The key of a server, wherever one is asked: from a file, or from the environment; never from the command line, where others see it."""

import os
from pathlib import Path

from model.errors import EngineRejected

KEY_VARIABLE = "EMOSLLM_API_KEY"


def read_key(key_file: str) -> str | None:
    """The server's API key: the first line of a file, or the environment. Raises EngineRejected when the file cannot be read."""
    if not key_file:
        return os.environ.get(KEY_VARIABLE)
    try:
        return Path(key_file).expanduser().read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError) as error:
        raise EngineRejected(f"the key file {key_file} cannot be read or is empty") from error
