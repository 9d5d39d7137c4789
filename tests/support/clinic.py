"""A real PostgreSQL server with TLS, a clinic's database in it, and a person who shares with that clinic.

The server is that of Debian's package, in a folder of its own; as root it runs as the user `postgres`.
"""

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg

from model.emotions import Emotion, Prediction
from monitor.clinic.address import ClinicAddress
from monitor.clinic.admin import add_login, entrust, set_up_clinic
from monitor.clinic.pending_erasures import PendingErasures
from monitor.clinic.sync import ClinicUploader
from monitor.storage.feedback import FeedbackStore
from monitor.storage.outbox import SHARED, Outbox
from monitor.storage.records import Coverage, InferenceResult
from monitor.storage.writer import TimelineWriter
from tests.support.storage import keys, raw


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """One that signs itself, for 127.0.0.1 and no name: cert.pem, and its private key, key.pem."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=server"
    arguments = [*command.split(), "-keyout", "key.pem", "-out", "cert.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(arguments, cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


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
        set_up_clinic(clinic.administrator)
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
        self.administrator = ClinicAddress.parse(server.url("root", "root-secret", database), "the test's URL")

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


PARIS = ZoneInfo("Europe/Paris")
NOON = datetime(2026, 7, 14, 12, tzinfo=UTC)
_NUMBERS = itertools.count(1)


def name(kind: str = "subject") -> str:
    """A login that no other test uses."""
    return f"{kind}_{next(_NUMBERS)}"


class SharingPerson:
    """Writes to a timeline as the monitor and the person do. url: their own at the clinic."""

    def __init__(self, path: Path, clinic: Clinic, subject: str | None = None, url: str | None = None) -> None:
        self.path, self.clinic = path, clinic
        self.subject = subject or name()
        self.url = url or clinic.add("subject", self.subject)
        self.address = ClinicAddress.parse(self.url, "the test's URL")
        self.timeline = TimelineWriter.open(path, PARIS, keys())
        self.words = FeedbackStore.open(path, PARIS, keys(), lambda: NOON + timedelta(days=30))
        self._sample = 0

    def share(self, past: bool = True, now: datetime = NOON) -> None:
        """Switch sharing on, as a start does."""
        with self.outbox() as outbox:
            outbox.enable_sharing(now, past)

    def outbox(self) -> Outbox:
        """The timeline's."""
        found = Outbox.open(self.path, keys())
        assert found is not None
        return found

    def speak(self, at: datetime, judged: bool = True, words: str | None = None) -> int:
        """A segment of two seconds."""
        self._sample += 100
        number = self.timeline.add_segment(
            start_sample=self._sample, end_sample=self._sample + 50, start_at=at, end_at=at + timedelta(seconds=2), sound=b"12"
        )
        if judged:
            # Not in the order of letters, and two are equally likely: the first counts.
            said = Prediction({Emotion.SAD: 0.4, Emotion.HAPPY: 0.4, Emotion.NEUTRAL: 0.2}, False, "compact-1")
            self.timeline.judge({number: InferenceResult(said, words)})
        return number

    def live(self, at: datetime = NOON) -> int:
        """A bit of everything, from `at` on; returns the segment that was corrected."""
        self.timeline.cover(Coverage.HEARD, at - timedelta(minutes=5), at + timedelta(minutes=30))
        segment = self.speak(at, words="secret words")
        self.speak(at + timedelta(minutes=20))
        self.timeline.give_up([self.speak(at + timedelta(seconds=10), judged=False)], "it had waited too long")
        self.words.asked(at + timedelta(seconds=20))
        self.words.check_in(at + timedelta(seconds=30), -0.1234567890123, Emotion.SAD, "a secret note")
        self.words.correct(segment, Emotion.HAPPY)
        self.words.undo(segment)
        self.words.confirm(segment)
        return segment

    @contextmanager
    def delivery(self) -> Iterator[ClinicUploader]:
        """A way to the clinic."""
        with self.outbox() as outbox:
            way = ClinicUploader(self.address, outbox, PendingErasures(self.path))
            try:
                yield way
            finally:
                way.close()

    def send(self) -> int:
        """Send until nothing waits; returns how many changes went."""
        with self.delivery() as way:
            return sum(iter(way.deliver, 0))

    def waiting(self) -> int:
        """How many changes wait."""
        with self.outbox() as outbox:
            return outbox.waiting()[0]

    def here(self, since: str = "") -> dict[str, list[tuple[Any, ...]]]:
        """What is to be shared, as the timeline has it."""
        queries = {
            "segment": "FROM segment WHERE state <> 'waiting' AND start_at >= ?",
            "coverage": "FROM coverage WHERE start_at >= ?",
            "correction": "FROM correction JOIN (SELECT id AS n, start_at FROM segment) ON n = segment_id WHERE start_at >= ?",
            "checkin": "FROM checkin WHERE at >= ?",
            "prompt": "FROM prompt WHERE at >= ?",
        }
        connection = raw(self.path)
        try:
            rows = {t: connection.execute(f"SELECT {', '.join(SHARED[t])} {query} ORDER BY id", (since,)) for t, query in queries.items()}
            return {table: [_plain(table, row) for row in found] for table, found in rows.items()}
        finally:
            connection.close()

    def there(self) -> dict[str, list[tuple[Any, ...]]]:
        """What the clinic has of the subject."""
        queries = {table: f"SELECT {', '.join(columns)} FROM emosllm.{table}" for table, columns in SHARED.items()}
        queries["segment"] = queries["segment"].replace("posterior", "posterior::text")
        rows = {table: self.clinic.rows(f"{query} WHERE subject = %s ORDER BY id", self.subject) for table, query in queries.items()}
        return {table: [_plain(table, row) for row in found] for table, found in rows.items()}

    def close(self) -> None:
        """Let go of the timeline."""
        self.timeline.close()
        self.words.close()


def _plain(table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Moments as aware UTC, truths as such, whichever database they are from."""
    plain = []
    for column, value in zip(SHARED[table], row, strict=True):
        if value is not None and (column == "at" or column.endswith("_at")):
            moment = datetime.fromisoformat(value).replace(tzinfo=UTC) if isinstance(value, str) else value.astimezone(UTC)
            plain.append(moment)
        elif value is not None and column in ("unsure", "confirmed"):
            plain.append(bool(value))
        else:
            plain.append(value)
    return tuple(plain)
