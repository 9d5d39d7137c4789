"""The judging process: loads the bundle and the engine, answers what the daemon asks, ends when the daemon is gone.

It is apart from the daemon so that loading or crashing models never disturb listening, and so that the daemon stays small.
"""

import json
import os
import random
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeVar

from model.errors import AccessRefused, EmosllmError, EngineUnavailable, TranscriberUnavailable
from monitor.config import EngineConfig
from monitor.judging.messages import Ask, Away, Failed, Failure, Ready, SetReference, Told, Use

_T = TypeVar("_T")

# Between two tries to reach an engine elsewhere, each of which is patient itself. By chance, so that not everyone comes back at once.
_PAUSES_S = (1.0, 10.0)


class Inbox:
    """What the daemon has sent and nobody has taken up yet. Filled by one thread, emptied by another.

    Another bundle is taken up before the questions that wait: whoever goes back from a bad one shall not wait for its answers. A reference
    of the voice keeps its place among the questions: those after it are heard against it.
    """

    def __init__(self) -> None:
        self._messages: deque[Ask | SetReference | Use] = deque()
        self._change = threading.Condition()

    def put(self, message: Ask | SetReference | Use) -> None:
        """Add what has arrived."""
        with self._change:
            if isinstance(message, Use):
                self._messages.appendleft(message)
            else:
                self._messages.append(message)
            self._change.notify()

    def take(self, limit: int) -> list[Ask] | SetReference | Use:
        """Wait for a message; questions come together, up to `limit`, and are judged by the same bundle."""
        with self._change:
            self._change.wait_for(lambda: self._messages)
            first = self._messages.popleft()
            if not isinstance(first, Ask):
                return first
            batch = [first]
            while len(batch) < limit and self._messages and isinstance(self._messages[0], Ask):
                batch.append(self._messages.popleft())  # type: ignore[arg-type]
            return batch

    def take_use(self, patience_s: float) -> Use | None:
        """Another bundle, if one is asked for within that time; questions go on waiting."""
        with self._change:
            if self._change.wait_for(lambda: self._messages and isinstance(self._messages[0], Use), patience_s):
                return self._messages.popleft()  # type: ignore[return-value]
            return None


def main() -> None:
    """`python -m monitor.judging.worker FD CONFIG`: FD a socket inherited from the daemon, CONFIG the [engine] section as JSON."""
    # Ctrl-C in a terminal reaches every process of the group; the daemon alone decides when judging ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    inbox = Inbox()
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()
    try:
        serve(connection, inbox, EngineConfig.model_validate(json.loads(sys.argv[2])))
    except (AccessRefused, TranscriberUnavailable) as error:
        connection.send(Failed(str(error), Failure.ABSENT))
    except EmosllmError as error:
        connection.send(Failed(str(error), Failure.LASTING))
    except OSError:
        _end()  # the daemon is gone, and with it everyone who could want an answer
    _end()


def serve(connection: Connection, inbox: Inbox, config: EngineConfig) -> None:
    """Load, say Ready, then do what the messages say, in their order. Raises EmosllmError, OSError."""
    from monitor.judging.judging import Judging

    judging = Judging(config)

    def use_other() -> None:
        if (other := inbox.take_use(random.uniform(*_PAUSES_S))) is not None:
            connection.send(judging.use(other.bundle))

    _outlast(judging.begin, connection, use_other)
    connection.send(Ready(judging.version, config.kind, judging.voice_space, judging.transcriber))
    while True:
        message = inbox.take(judging.at_once)
        if isinstance(message, Use):
            connection.send(judging.use(message.bundle))
            continue
        if isinstance(message, SetReference):
            judging.hear_against(message.reference)
            continue
        judgements = _outlast(partial(judging.judge, [ask.pcm for ask in message]), connection, use_other)
        connection.send(Told(dict(zip((ask.entry for ask in message), judgements, strict=True)), judging.untranscribed))


def _outlast(do: Callable[[], _T], connection: Connection, pause: Callable[[], None]) -> _T:
    """Do it, again and again while the engine is elsewhere and does not answer. What is loaded stays loaded meanwhile."""
    since = datetime.now(UTC)
    while True:
        try:
            return do()
        except EngineUnavailable as error:
            connection.send(Away(since, str(error)))
        pause()


def _receive(connection: Connection, inbox: Inbox) -> None:
    """Take messages off the socket as they come, so that the daemon never waits for a busy engine; end when it is gone."""
    try:
        while True:
            inbox.put(connection.recv())
    except (EOFError, OSError):
        _end()


def _end() -> None:
    # Not sys.exit: vLLM leaves threads behind that would keep this process alive.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
