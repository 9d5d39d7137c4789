"""What a training says on stderr, in the main process and in its workers."""

import logging
import sys


def log_to_stderr(who: str = "") -> None:
    """Times and messages from here on, each after `who`; libraries say only what is wrong."""
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {who}%(message)s", datefmt="%H:%M:%S", stream=sys.stderr, force=bool(who))
    for noisy in ("accelerate", "httpx", "transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
