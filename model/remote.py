"""Things that live on other machines: the API key of a server, and weights on the Hugging Face hub. No torch here.

The API key comes from a file or from the environment, never from the command line, where other users could see it.
"""

import os
from pathlib import Path

from model.errors import EngineRejected

API_KEY_VARIABLE = "EMOSLLM_API_KEY"


def read_api_key(key_file: str) -> str | None:
    """The server's API key: the first line of a file, or the environment. Raises EngineRejected when the file cannot be read."""
    if not key_file:
        return os.environ.get(API_KEY_VARIABLE)
    try:
        return Path(key_file).expanduser().read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError) as error:
        raise EngineRejected(f"the key file {key_file} cannot be read or is empty") from error


def explain_load_error(source: str, error: Exception) -> str:
    """Why weights of a hub could not be had, and what to do: no access to gated ones, or none at hand without a network."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "gated" in str(error) or "401" in str(error) or "403" in str(error):
        return f"its licence must be accepted first: open https://huggingface.co/{source}, accept, then run `hf auth login` ({text})"
    if not Path(source).expanduser().is_dir():
        return f"no such folder, and the hub did not give it; check the name and the network, or name a folder with its files ({text})"
    return text
