"""The control socket of a running daemon: a Unix socket that only its owner may use, one command per connection.

One line of JSON in, one out. The server is handed its commands as functions and knows no daemon; the client (`send_command`) is here
too, so that both speak the same protocol. It stays at the top because every part that talks to a running daemon imports the client.
"""

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from model.errors import EmosllmError, NotRunning
from monitor.paths import DatabaseFiles

_logger = logging.getLogger(__name__)

Reply = dict[str, Any]
CommandHandler = Callable[[Mapping[str, Any]], Reply]

_MAX_MESSAGE_BYTES = 65_536
_TIMEOUT_S = 5.0
_MAX_PATH_BYTES = 100


class ControlServer:
    """Answers commands by name while the block runs, each connection in turn in a thread of its own.

    A command that raises EmosllmError is answered with its message; any other error is logged without what was asked.
    """

    def __init__(self, path: Path, commands: Mapping[str, CommandHandler]) -> None:
        self._path = path
        self._commands = commands
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._closed = False

    def __enter__(self) -> Self:
        """Listen. Raises EmosllmError when the path cannot be used. Whoever enters holds the database's lock."""
        if len(os.fsencode(self._path)) > _MAX_PATH_BYTES:
            raise EmosllmError(f"the path {self._path} is too long for a socket; use a shorter one in [timeline] database")
        before = os.umask(0o177)
        try:
            # What a killed monitor left behind; the lock says that nobody answers there.
            self._path.unlink(missing_ok=True)
            self._socket.bind(str(self._path))
        except OSError as error:
            raise EmosllmError(f"cannot listen for commands at {self._path}: {error.strerror}; check the permissions there") from error
        finally:
            os.umask(before)
        # Who finds the queue full is refused at once, and would take that for no monitor.
        self._socket.listen(64)
        self._thread.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _serve(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(_TIMEOUT_S)
                connection.sendall(json.dumps(self._answer(_read_line(connection))).encode() + b"\n")

    def _answer(self, line: bytes) -> Reply:
        try:
            asked = json.loads(line)
            command = self._commands[asked.pop("command")]
        except (ValueError, KeyError, AttributeError, TypeError):
            return {"error": f'commands are {", ".join(self._commands)}, as one line of JSON: {{"command": NAME}}'}
        try:
            return command(asked)
        except EmosllmError as error:
            return {"error": str(error)}
        except Exception:
            _logger.exception("a command failed")
            return {"error": "the monitor failed to do this; its log says why"}


def send_command(database: Path, command: str, **arguments: object) -> Reply:
    """Send one command to the monitor that writes `database`; returns its answer.

    Raises NotRunning when there is none, EmosllmError with its words when it refuses or does not answer within 5 s.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_S)
        try:
            connection.connect(str(DatabaseFiles(database).socket))
        except OSError as error:
            raise NotRunning("the monitor is not running; start it with `emosllm-monitor start`") from error
        try:
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            line = _read_line(connection)
            answer: Reply = json.loads(line)
        except (OSError, ValueError) as error:
            raise EmosllmError(f"the monitor did not answer ({error}); look at it with `emosllm-monitor doctor`") from error
    if "error" in answer:
        raise EmosllmError(str(answer["error"]))
    return answer


def _read_line(connection: socket.socket) -> bytes:
    """Everything up to a line's end, or what came before the other side ended or the limit was reached."""
    received = b""
    while not received.endswith(b"\n") and len(received) < _MAX_MESSAGE_BYTES:
        part = connection.recv(4096)
        if not part:
            break
        received += part
    return received
