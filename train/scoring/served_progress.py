"""Answers that a server gave, kept on disk as they come, so that a broken run goes on where it stopped. No sound, and no file's name."""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

from model.errors import TrainingError
from model.types import Emotion
from train.scoring.served_answers import INSTRUCTION, Reply

logger = logging.getLogger(__name__)

_LOGGED_EVERY = 100


class Progress:
    """Replies by the hash of their clip's path, one JSON line each, under a first line that says what was asked of which model.

    A last line that was cut off in writing is dropped, and its clip asked again. Without a path the replies are in memory only.
    Raises TrainingError when the file cannot be used or holds anything else; such a file is left as it is.
    """

    def __init__(self, path: Path | None, model: str) -> None:
        self.replies: dict[str, Reply] = {}
        self._path = path
        if path:
            try:
                self._restore(path, _line({"model": model, "instruction": hashlib.sha256(INSTRUCTION.encode()).hexdigest()}))
            except OSError as error:
                raise TrainingError(f"the progress file {path} cannot be used: {error}") from error

    def add(self, clip: str, reply: Reply) -> None:
        """Keep one reply."""
        self.replies[clip] = reply
        if len(self.replies) % _LOGGED_EVERY == 0:
            logger.info("answered: %d clips", len(self.replies))
        if self._path:
            try:
                with self._path.open("ab") as file:
                    file.write(_line({"clip": clip, "posterior": reply.posterior, "measured": reply.measured}))
            except OSError as error:
                raise TrainingError(f"an answer cannot be kept in {self._path}: {error}") from error

    def _restore(self, path: Path, header: bytes) -> None:
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if not whole.startswith(header) and not header.startswith(content):
            raise TrainingError(f"{path} holds something else than this model's answers to this instruction; name another file")
        for number, row in enumerate(whole.splitlines()[1:], start=2):
            try:
                kept = json.loads(row)
                self.replies[kept["clip"]] = Reply(_kept_posterior(kept["posterior"]), bool(kept["measured"]))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise TrainingError(f"{path}, line {number} is no kept answer; take the line out, and its clip is asked again") from error
        with path.open("ab") as file:
            file.truncate(len(whole))
            if not whole:
                file.write(header)


def clip_hash(path: Path) -> str:
    """What a clip is kept under: 128 bits of a hash of its absolute path, in hexadecimal."""
    return hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:32]


def _kept_posterior(kept: Mapping[str, float] | None) -> dict[Emotion, float] | None:
    return None if kept is None else {Emotion(letter): float(probability) for letter, probability in kept.items()}


def _line(row: Mapping[str, object]) -> bytes:
    return json.dumps(row).encode() + b"\n"
