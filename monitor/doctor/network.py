"""Checks for unexpected network connections while the monitor captures and predicts.

Looks again and again at every network socket that this process, a running daemon and all their descendants have open: those with another
end, TCP or UDP, and those that wait for calls from the network. A connection that is opened and closed between two looks is not seen.
"""

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import psutil

from model.errors import ConfigError
from monitor.clinic.address import ClinicAddress
from monitor.config import EngineConfig, StoreConfig
from monitor.doctor.findings import Finding, Verdict
from monitor.fileio import lock_holder

_EVERY_S = 0.05
# Where a look takes longer than that, something is left for what is being looked at.
_MIN_PAUSE_S = 0.01
_DNS_PORT = 53
_RESOLVERS = Path("/etc/resolv.conf")

SocketAddress = tuple[str, int]
"""An IP address and a port."""


def find_running_daemon(database: Path) -> int | None:
    """The process that holds the database's lock; None when nobody does, whatever an old note says."""
    path, pid = lock_holder(database)
    with suppress(psutil.Error):
        if pid is not None and any(file.path == str(path) for file in psutil.Process(pid).open_files()):
            return pid
    return None


def watched_roots(monitor: int | None) -> list[int]:
    """This process, and the monitor that runs."""
    return [os.getpid(), *([monitor] if monitor is not None else [])]


def expected_addresses(engine: EngineConfig) -> Mapping[SocketAddress, str]:
    """Where connections may lead by the settings, and why: to the engine's server, and to whoever knows its address."""
    if engine.kind != "server":
        return {}
    url = urlsplit(engine.url)
    host, port = url.hostname or "", url.port or {"https": 443}.get(url.scheme, 80)
    what = "vectors of what is said and, for a bundle that asks with them, its words" if engine.transcriber else "vectors of what is said"
    return _expected(host, port, f"{engine.url}, as [engine] url says; {what} go there")


def clinic_addresses(store: StoreConfig) -> Mapping[SocketAddress, str]:
    """The same for the clinic that things are shared with. A URL that cannot be used leads nowhere; its own check says so."""
    with suppress(ConfigError):
        if (clinic := ClinicAddress.of(store)) is not None and not clinic.is_here:
            return _expected(clinic.host, clinic.port, f"{clinic}, as [store] url says; what is shared goes there")
    return {}


def _expected(host: str, port: int, why: str) -> Mapping[SocketAddress, str]:
    try:
        found = {str(answer[4][0]) for answer in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError:
        found = set()  # the engine's own check says more about that
    expected = {(address, port): why for address in found}
    if host not in found:
        expected |= {(address, _DNS_PORT): f"the name server, for the address of {host}" for address in _name_servers()}
    return expected


class NetworkWatch:
    """Looks from entering to leaving, in a thread of its own.

    roots: processes whose descendants are looked at too; those that part from their parents later stay in sight.
    expected: addresses that connections may lead to, and why. looks: how often it has looked. watched: processes in sight.
    """

    def __init__(self, roots: Sequence[int], expected: Mapping[SocketAddress, str]) -> None:
        self._roots = roots
        self._expected = expected
        self.watched: dict[int, Any] = {}
        self._hidden: set[str] = set()
        self._connected: dict[tuple[str, SocketAddress], None] = {}
        self._listening: dict[tuple[str, SocketAddress], None] = {}
        self.looks = 0
        self._seen = 0
        self._seconds = 0.0
        self._broken = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_raised: object) -> None:
        self._over.set()
        self._thread.join()
        self._seconds = time.monotonic() - self._began

    def finding(self, during: Sequence[str]) -> Finding:
        """What was seen, once it is over. during: what went on, in words."""
        looked = f"{self.looks} looks in {self._seconds:.0f} s at {self._seen} processes"
        looked += f", while {' and '.join(during)}" if during else ""
        if self._broken or not self.looks:
            return Finding(Verdict.FAIL, "network", f"connections could not be looked at: {self._broken or 'there was no time'}")
        unwanted = [f"{who} was connected to {_format_address(where)}" for who, where in self._connected if where not in self._expected]
        if unwanted:
            advice = "Nothing of the monitor should; a proxy or a sound server elsewhere may be set in the environment."
            return Finding(Verdict.FAIL, "network", "\n".join([*unwanted, f"({looked})", advice]))
        remarks = [f"{who} sends to {_format_address(where)}: {self._expected[where]}" for who, where in self._connected]
        remarks += [f"{who} takes calls from the network at {_format_address(where)}" for who, where in self._listening]
        remarks += [f"{who} could not be looked at: it belongs to somebody else" for who in sorted(self._hidden)]
        if not during:
            remarks.append("neither microphone nor engine worked, so there was little to see")
        if remarks:
            return Finding(Verdict.WARN, "network", "\n".join([*remarks, f"Nothing else left this machine: {looked}"]))
        return Finding(Verdict.OK, "network", f"no connection left this machine: {looked}")

    def _work(self) -> None:
        try:
            while not self._over.is_set():
                began = time.monotonic()
                self._look()
                self.looks += 1
                self._over.wait(max(_MIN_PAUSE_S, began + _EVERY_S - time.monotonic()))
        except Exception as error:  # whatever it is: without it the watch would seem to have seen nothing
            self._broken = f"{type(error).__name__}: {error}"

    def _look(self) -> None:
        for root in self._roots:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(root)
                self.watched.setdefault(root, process)
                for child in process.children(recursive=True):
                    self.watched.setdefault(child.pid, child)
        self._seen = max(self._seen, len(self.watched))
        for pid, process in list(self.watched.items()):
            try:
                self._note(process)
            except psutil.NoSuchProcess:
                del self.watched[pid]

    def _note(self, process: Any) -> None:
        if not process.is_running():  # the number may be somebody else's by now
            raise psutil.NoSuchProcess(process.pid)
        who = f"{process.name()} (process {process.pid})"  # first, as it may end at any moment
        try:
            connections = process.net_connections(kind="inet")
        except psutil.AccessDenied:
            self._hidden.add(who)
            return
        for connection in connections:
            if connection.raddr and not _is_loopback(connection.raddr.ip):
                self._connected[who, (connection.raddr.ip, connection.raddr.port)] = None
            elif connection.status == psutil.CONN_LISTEN and not _is_loopback(connection.laddr.ip):
                self._listening[who, (connection.laddr.ip, connection.laddr.port)] = None


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address.split("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        return parsed.ipv4_mapped.is_loopback
    return parsed.is_loopback


def _format_address(address: SocketAddress) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _name_servers() -> list[str]:
    try:
        lines = _RESOLVERS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [words[1] for words in map(str.split, lines) if words[:1] == ["nameserver"] and len(words) > 1]
