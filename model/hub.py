"""Weights that are somewhere else: why they could not be had, in words that help."""

from pathlib import Path


def why_not(source: str, error: Exception) -> str:
    """Why weights of a hub could not be had, and what to do: no access to gated ones, or none at hand without a network."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "gated" in str(error) or "401" in str(error) or "403" in str(error):
        return f"its licence must be accepted first: open https://huggingface.co/{source}, accept, then run `hf auth login` ({text})"
    if not Path(source).expanduser().is_dir():
        return f"no such folder, and the hub did not give it; check the name and the network, or name a folder with its files ({text})"
    return text
