"""Tells systemd that the daemon is ready, alive and about to stop: sd_notify, without a library.

Knows a socket and two variables, nothing of the daemon. Without systemd every call does nothing. What is said shows in
`systemctl status`, so it holds times and counts only.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping

_SIGNS_PER_TIMEOUT = 3


class Notifier:
    """This process's line to systemd. No call blocks or raises: listening matters more than being watched.

    environment: NOTIFY_SOCKET is a path, or an abstract name after an @. clock: seconds that never go back.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        variables = os.environ if environment is None else environment
        address = variables.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._clock = clock
        watched = variables.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        timeout_us = variables.get("WATCHDOG_USEC", "0") if watched else "0"
        self.watchdog_s = int(timeout_us) / 1e6 if timeout_us.isdecimal() else 0.0
        """After this long without a sign of life systemd restarts the daemon; 0: it does not watch."""
        self._due_at = clock()

    def ready(self) -> None:
        """Sound is coming in: `systemctl start` returns."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + " ".join(text.split()))

    def alive(self) -> None:
        """A sign of life; may be given as often as one likes, as only those are sent that are due."""
        if self.watchdog_s and self._clock() >= self._due_at:
            self._due_at = self._clock() + self.watchdog_s / _SIGNS_PER_TIMEOUT
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """The end has begun; it may take as long as the unit allows."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as line:
                line.sendto(message.encode(), self._address)
        except OSError:
            return
