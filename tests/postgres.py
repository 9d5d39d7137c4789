"""A real PostgreSQL of Debian's package with TLS, in a folder of its own and on this machine alone; for tests, and for whoever measures.

PostgreSQL refuses to run as root; then it runs as the system's `postgres`, which the package brings along.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from monitor.clinic.address import Address
from monitor.clinic.logins import add_login, entrust
from monitor.clinic.setup import set_up
from tests.certificates import make_certificate

_PATIENCE_S = 60
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",  # a test's rows need not outlive the machine
    "max_connections": "200",
    "log_line_prefix": "%m %u ",
    "shared_buffers": "64MB",
    "password_encryption": "scram-sha-256",
    "ssl": "on",
    "ssl_cert_file": "../cert.pem",
    "ssl_key_file": "../key.pem",
}


class Postgres:
    """A server: `start`, `stop` and `log`; a database for each clinic. The administrator is the superuser `root`.

    ca_file: what signs its certificate, which is for 127.0.0.1 and no name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bin = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        self._user = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self._log = folder / "server.log"
        self.ca_file = folder / "cert.pem"
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    def make(self) -> None:
        """Make the cluster's files."""
        os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        password = self._folder / "password"
        password.write_text("root-secret\n")
        _, key = make_certificate(self._folder)
        for secret in (password, key):
            os.chown(secret, self._user.pw_uid, self._user.pw_gid)
        how = ["-U", "root", "-A", "scram-sha-256", "--pwfile", str(password), "-E", "UTF8", "--locale", "C", "--no-sync"]
        self._run("initdb", "-D", str(self._folder / "data"), *how)

    def start(self, settings: Mapping[str, str] | None = None) -> None:
        """Start it, and wait until it answers."""
        options = [f"--{name}={value}" for name, value in {**_SETTINGS, **(settings or {})}.items()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._folder / "data", "-p", str(self.port), "-k", self._folder, *options],
                stdout=log,
                stderr=log,
                **self._as_user(),
            )
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self.superuser("postgres").close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError(f"PostgreSQL did not start:\n{self.log[-3000:]}") from None
                time.sleep(0.1)

    def stop(self) -> None:
        """End it at once, as a failure would: with everybody's connections."""
        if self._process is not None:
            self._process.terminate() if self._process.poll() is not None else self._process.send_signal(3)  # SIGQUIT: at once
            self._process.wait(_PATIENCE_S)
            self._process = None

    @property
    def process_id(self) -> int:
        """Of what runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has written."""
        return self._log.read_text(errors="replace")

    def superuser(self, database: str) -> "psycopg.Connection[Any]":
        """A connection that may do anything; every statement is a transaction."""
        return psycopg.connect(self.url("root", "root-secret", database), autocommit=True)

    def url(self, user: str, password: str, database: str) -> str:
        """For [store] url."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def clinic(self, database: str) -> "Clinic":
        """A database of that name, set up."""
        with self.superuser("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{database}"')
        clinic = Clinic(self, database)
        set_up(clinic.administrator)
        return clinic

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run([self._bin / program, *arguments], capture_output=True, text=True, check=False, **self._as_user())
        if done.returncode:
            raise RuntimeError(f"{program} failed:\n{done.stdout}\n{done.stderr}")

    def _as_user(self) -> dict[str, Any]:
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"}
        who = {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        return {"env": environment, "cwd": self._folder, **who}


class Clinic:
    """A clinic's database on a server. Logins are of the whole server, so their names must not be used twice there."""

    def __init__(self, server: Postgres, database: str) -> None:
        self.server, self.database = server, database
        self.administrator = Address.parse(server.url("root", "root-secret", database), "the test's URL")

    def add(self, kind: str, name: str) -> str:
        """A login as "subject", "clinician" or "operator"; returns its URL."""
        return self.administrator.url_for(name, add_login(self.administrator, name, kind))

    def entrust(self, clinician: str, subject: str) -> None:
        """Let a clinician read what a subject shares."""
        entrust(self.administrator, clinician, subject)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What a superuser sees, whom no policy stops."""
        with self.server.superuser(self.database) as connection:
            return connection.execute(query, values).fetchall()


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server while the block runs."""
    # Not below pytest's own folder, which other users may not enter.
    folder = Path(tempfile.mkdtemp(prefix="emosllm-pg-"))
    server = Postgres(folder)
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
