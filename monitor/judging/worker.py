"""The judging process: loads the bundle and the engine, answers what the daemon asks, ends when the daemon is gone.

It is apart from the daemon so that loading or crashing models never disturb listening, and so that the daemon stays small.
"""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import numpy as np

from model.audio import Int16, pcm16_to_float, s_to_samples
from model.errors import EmosllmError, EngineUnavailable
from monitor.config import EngineConfig
from monitor.judging.messages import Ask, Failed, Failure, Ready, Told
from monitor.judging.voice import measure
from monitor.store.records import Judgement

if TYPE_CHECKING:
    from model.predictor import Predictor

_WARM_UP_S = (1.0, 2.0, 4.0, 8.0)


def main() -> None:
    """`python -m monitor.judging.worker FD CONFIG`: FD a socket inherited from the daemon, CONFIG the [engine] section as JSON."""
    # Ctrl-C in a terminal reaches every process of the group; the daemon alone decides when judging ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    asked: queue.SimpleQueue[Ask] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, asked), daemon=True).start()
    try:
        serve(connection, asked, EngineConfig.model_validate(json.loads(sys.argv[2])))
    except EngineUnavailable as error:
        connection.send(Failed(str(error), Failure.PASSING))
    except EmosllmError as error:
        connection.send(Failed(str(error), Failure.LASTING))
    except OSError:
        _end()  # the daemon is gone, and with it everyone who could want an answer
    _end()


def serve(connection: Connection, asked: "queue.SimpleQueue[Ask]", config: EngineConfig) -> None:
    """Load, say Ready, then judge whatever is waiting, as one batch at a time. Raises EmosllmError, OSError."""
    from model.bundle import open_bundle
    from model.manifest import find_bundle
    from model.predictor import Predictor
    from monitor.judging.engine import open_engine

    bundle = open_bundle(find_bundle(config.bundle))
    predictor = Predictor(bundle, open_engine(config, bundle))
    # The first batch allocates and compiles for seconds; nobody's speech has to wait for that.
    _judge(predictor, [np.zeros(s_to_samples(seconds), np.int16) for seconds in _WARM_UP_S])
    connection.send(Ready(bundle.manifest.version, config.kind))
    while True:
        batch = _waiting(asked, config.max_batch)
        judgements = _judge(predictor, [ask.pcm for ask in batch])
        connection.send(Told(dict(zip((ask.entry for ask in batch), judgements, strict=True))))


def _judge(predictor: "Predictor", pcms: Sequence[Int16]) -> list[Judgement]:
    """Segments of int16 (N,) to what is said of them and how they sounded; an answer outside the grammar is unsure."""
    from model.predictor import Sound

    answers = predictor.predict([Sound(pcm16_to_float(pcm)) for pcm in pcms])
    return [
        Judgement(answer.prediction or predictor.unknown(), answer.transcript, measure(pcm))
        for answer, pcm in zip(answers, pcms, strict=True)
    ]


def _receive(connection: Connection, asked: "queue.SimpleQueue[Ask]") -> None:
    """Take requests off the socket as they come, so that the daemon never waits for a busy engine; end when it is gone."""
    try:
        while True:
            asked.put(connection.recv())
    except (EOFError, OSError):
        _end()


def _waiting(asked: "queue.SimpleQueue[Ask]", limit: int) -> list[Ask]:
    """Wait for one request, then take what else has arrived, up to `limit`."""
    batch = [asked.get()]
    while len(batch) < limit and not asked.empty():
        batch.append(asked.get())
    return batch


def _end() -> None:
    # Not sys.exit: vLLM leaves threads behind that would keep this process alive.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
