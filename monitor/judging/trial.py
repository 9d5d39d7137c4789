"""Tries the engine out: a judging process as the daemon starts it, for one segment."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from model.audio import Int16
from model.errors import EmosllmError, EngineRejected, EngineUnavailable
from model.types import Prediction
from monitor.config import EngineConfig
from monitor.judging.messages import Ask, Away, Failed, Failure, Ready, Told
from monitor.judging.process import JudgingProcess, with_last_words

_Message = TypeVar("_Message")


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of trying the engine out: its answer, and the seconds until it was ready and from there to the answer.

    transcriber: what writes down the words; empty where the bundle needs none.
    """

    prediction: Prediction
    transcriber: str
    ready_s: float
    answer_s: float


def try_out(config: EngineConfig, log: Path, pcm: Int16) -> Trial:
    """Start a judging process as the daemon does, have it judge one segment (N,) and end it.

    Raises EngineUnavailable or EngineRejected with its last words.
    """
    child = JudgingProcess(config, log)
    try:
        began = time.monotonic()
        ready = _expect(child, Ready, config.start_timeout_s)
        ready_s = time.monotonic() - began
        child.send(Ask(0, pcm))
        told = _expect(child, Told, config.start_timeout_s)
        return Trial(told.judgements[0].prediction, ready.transcriber, ready_s, time.monotonic() - began - ready_s)
    except (EOFError, OSError) as error:
        raise EngineUnavailable(with_last_words(f"the judging process died ({child.epitaph()})", log)) from error
    except EmosllmError as error:
        raise type(error)(with_last_words(str(error), log)) from error
    finally:
        child.end()


def _expect(child: JudgingProcess, kind: type[_Message], patience_s: float) -> _Message:
    """The next message of a kind. Raises EngineUnavailable, EngineRejected, and EOFError or OSError when the process is gone."""
    message = child.receive(patience_s)
    if isinstance(message, kind):
        return message
    if isinstance(message, Away):
        raise EngineUnavailable(message.reason)
    if isinstance(message, Failed):
        raise (EngineRejected if message.failure is Failure.LASTING else EngineUnavailable)(message.reason)
    raise EngineUnavailable(f"the engine did not answer within {patience_s:.0f} s")
