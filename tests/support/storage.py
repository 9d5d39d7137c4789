"""Timelines for tests: keys, raw SQLCipher connections, decrypted pages, stand-in keyrings, and databases filled by plain SQL."""

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import keyring
import keyring.core
import pytest
from alembic import command
from alembic.config import Config
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import strategies as st
from keyring.backend import KeyringBackend

from monitor.config import TimelineConfig
from monitor.storage import keys as key_places
from monitor.storage.cipher import Connection, StoreKey, connect
from monitor.storage.keys import KeyStore
from monitor.storage.schema import create_database_engine
from monitor.storage.writer import TimelineWriter


def keys() -> KeyStore:
    """Where the default settings look for keys, in this test's home."""
    return TimelineConfig().keys()


def raw(path: Path) -> Connection:
    """The database in `path`, created where it is missing, past all rules of the program."""
    return connect(path, keys().find_or_make(path), read_only=False, timeout_s=5.0)


def of_version(path: Path, version: str) -> None:
    """An empty timeline in `path`, where there is nothing yet, with the tables that an earlier program made."""
    engine = create_database_engine(path, keys().find_or_make(path), 5.0)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", "monitor.storage:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, version)
    engine.dispose()


PAGE, _RESERVED, _IV, _SALT = 4096, 80, 16, 16
_WAL_HEADER, _FRAME_HEADER = 32, 24


def decrypted_bytes(folders: Iterable[Path], keys: Iterable[StoreKey]) -> bytes:
    """All bytes of all files in the folders, as they are, and as each key reads them."""
    found = []
    for folder in folders:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = file.read_bytes()
            found += [file.name.encode(), content, *(b"".join(_pages(content, key)) for key in keys)]
    return b"\0".join(found)


def _pages(content: bytes, key: StoreKey) -> Iterator[bytes]:
    if content[:4] in (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"):
        step = PAGE + _FRAME_HEADER
        starts = range(_WAL_HEADER + _FRAME_HEADER, len(content) - PAGE + 1, step)
    else:
        starts = range(0, len(content) - PAGE + 1, PAGE)
    for start in starts:
        yield from _decrypted(content[start : start + PAGE], key)


def _decrypted(page: bytes, key: StoreKey) -> Iterator[bytes]:
    iv = page[-_RESERVED : -_RESERVED + _IV]
    # The first page of a file, and copies of it in a log, begin with the salt.
    for begin in (0, _SALT):
        decryptor = Cipher(algorithms.AES(bytes.fromhex(key.digits)), modes.CBC(iv)).decryptor()
        yield decryptor.update(page[begin:-_RESERVED])


class Memory(KeyringBackend):
    """A keyring that keeps what it is given while the test lasts."""

    priority = 5  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


class Plain(Memory):
    """Keeps keys where anybody can read them, and says so by its priority."""

    priority = 0.5  # type: ignore[assignment]


class Locked(Memory):
    """Waits for its owner, who does not come."""

    def __init__(self) -> None:
        super().__init__()
        self.unlocked = threading.Event()

    def get_password(self, service: str, username: str) -> str | None:
        self.unlocked.wait(60)
        return super().get_password(service, username)


class Broken(Memory):
    """Answers with an error of its own."""

    def get_password(self, service: str, username: str) -> str | None:
        raise RuntimeError("the bus is gone")


def use(monkeypatch: pytest.MonkeyPatch, backend: KeyringBackend) -> None:
    """Make `backend` the keyring of this process, until the test ends."""
    monkeypatch.setattr(keyring.core, "_keyring_backend", None)  # so that what was there comes back
    keyring.set_keyring(backend)
    monkeypatch.setattr(key_places, "KEYRING_TIMEOUT_S", 0.2 if isinstance(backend, Locked) else 10.0)


NOON = datetime(2026, 7, 14, 12, 0, 0, 123457, tzinfo=UTC)
TABLES = ("segment", "correction", "coverage", "checkin", "prompt")

_LETTERS = "ASHUFDCNO"
_TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12) | st.sampled_from(
    ["", "=1+1", "@SUM(A1)", "'tis", "-2", '"quoted", or not', "two\nlines\r\n", "\x00", "ﬁne", " ", "＝1", "\ufeff", "null", "é" * 300]
)
_ZONES = st.sampled_from(["Europe/Paris", "UTC", "Asia/Kathmandu"])
_SECONDS = st.integers(-(10**9), 4 * 10**11).map(lambda microseconds: timedelta(microseconds=microseconds))


def text_of(moment: datetime) -> str:
    """As the timeline stores it."""
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")


_MOMENTS = _SECONDS.map(lambda after: text_of(NOON + after))


@st.composite
def _segments(draw: st.DrawFn) -> list[dict[str, Any]]:
    places = draw(st.lists(st.tuples(st.sampled_from(["one", "two", "=three"]), st.integers(0, 2**40)), unique=True, max_size=6))
    return [draw(_segment(*place)) for place in places]


@st.composite
def _segment(draw: st.DrawFn, stream: str, sample: int) -> dict[str, Any]:
    start = NOON + draw(_SECONDS)
    state = draw(st.sampled_from(["judged", "waiting", "unjudged"]))
    row = dict.fromkeys(("reason", "emotion", "confidence", "unsure", "posterior", "bundle_version", "judged_at", "transcript"))
    row |= {"stream": stream, "start_sample": sample, "end_sample": sample + draw(st.integers(1, 10**6)), "zone": draw(_ZONES)}
    row |= {"start_at": text_of(start), "end_at": text_of(start + timedelta(microseconds=draw(st.integers(1, 60_000_000))))}
    row |= {"state": state, "loudness_db": draw(st.none() | st.floats(-90, 0)), "pitch_hz": draw(st.none() | st.floats(50, 500))}
    if state == "unjudged":
        row["reason"] = draw(_TEXTS)
    if state == "judged":
        letters = draw(st.lists(st.sampled_from(_LETTERS), min_size=1, unique=True))
        weights = draw(st.lists(st.integers(1, 9), min_size=len(letters), max_size=len(letters)))
        posterior = {letter: weight / sum(weights) for letter, weight in zip(letters, weights, strict=True)}
        best = max(posterior, key=lambda letter: posterior[letter])
        row |= {"emotion": best, "confidence": posterior[best], "unsure": draw(st.booleans()), "posterior": json.dumps(posterior)}
        row |= {"bundle_version": draw(_TEXTS), "judged_at": draw(_MOMENTS), "transcript": draw(st.none() | _TEXTS)}
    return row


@st.composite
def histories(draw: st.DrawFn) -> dict[str, list[dict[str, Any]]]:
    """Rows by table, with the columns of the database; what refers to a row of another table does so by its place there, from 1."""
    segments = draw(_segments())
    checkins = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "at": _MOMENTS,
                    "zone": _ZONES,
                    "valence": st.floats(-1, 1),
                    "emotion": st.sampled_from(_LETTERS),
                    "note": st.none() | _TEXTS,
                }
            ),
            max_size=4,
            unique_by=lambda row: row["at"],
        )
    )
    corrections = st.fixed_dictionaries(
        {
            "segment_id": st.integers(1, max(1, len(segments))),
            "emotion": st.sampled_from(_LETTERS),
            "confirmed": st.booleans(),
            "at": _MOMENTS,
            "undone_at": st.none() | _MOMENTS,
        }
    )
    coverage = st.tuples(
        st.sampled_from(["one", "two"]),
        st.sampled_from(["heard", "paused", "engine-down"]),
        _SECONDS,
        st.integers(1, 10**10),
        _ZONES,
        _TEXTS,
    ).map(
        lambda of: {
            "stream": of[0],
            "kind": of[1],
            "start_at": text_of(NOON + of[2]),
            "end_at": text_of(NOON + of[2] + timedelta(microseconds=of[3])),
            "zone": of[4],
            "reason": of[5],
        }
    )
    answers = st.none() | st.integers(1, len(checkins)) if checkins else st.none()
    prompts = st.fixed_dictionaries({"at": _MOMENTS, "zone": _ZONES, "checkin_id": answers})
    return {
        "segment": segments,
        "correction": draw(st.lists(corrections, max_size=6)) if segments else [],
        "coverage": draw(st.lists(coverage, max_size=6)),
        "checkin": checkins,
        "prompt": draw(st.lists(prompts, max_size=4, unique_by=lambda row: (row["at"], row["zone"]))),
    }


def begin(path: Path) -> Path:
    """An empty timeline: a new one, or what was there without its rows, which is quicker."""
    if path.exists():
        with closing(raw(path)) as connection:
            for table in reversed(TABLES):
                connection.execute(f"DELETE FROM {table}")
            connection.commit()
    else:
        TimelineWriter.open(path, ZoneInfo("UTC"), keys()).close()
    return path


def store(path: Path, history: dict[str, list[dict[str, Any]]]) -> None:
    """Put a history into an empty timeline."""
    with closing(raw(begin(path))) as connection:
        for table in ("segment", "checkin", "correction", "coverage", "prompt"):
            for number, row in enumerate(history[table], 1):
                names = ", ".join(row)
                values = ", ".join(f":{name}" for name in row)
                connection.execute(f"INSERT INTO {table} (id, {names}) VALUES ({number}, {values})", row)
        connection.commit()


def content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that is stored, but for numbers: rows in the order of time."""
    told = {
        "segment": "SELECT stream, start_sample, end_sample, start_at, end_at, zone, state, reason, emotion, confidence, unsure, posterior,"
        " bundle_version, judged_at, transcript, loudness_db, pitch_hz FROM segment ORDER BY start_at, stream, start_sample",
        "correction": "SELECT stream, start_sample, said.emotion, confirmed, at, undone_at FROM correction AS said"
        " JOIN segment ON segment.id = segment_id ORDER BY stream, start_sample, said.id",
        "coverage": "SELECT stream, kind, start_at, end_at, zone, reason FROM coverage ORDER BY 3, 4, 1, 2, 5, 6",
        "checkin": "SELECT at, zone, valence, emotion, note FROM checkin ORDER BY at",
        "prompt": "SELECT prompt.at, prompt.zone, checkin.at FROM prompt LEFT JOIN checkin ON checkin.id = checkin_id ORDER BY 1, 2",
    }
    with closing(raw(path)) as connection:
        rows = {table: connection.execute(query).fetchall() for table, query in told.items()}
    place = 11
    rows["segment"] = [(*row[:place], row[place] and json.loads(row[place]), *row[place + 1 :]) for row in rows["segment"]]
    return rows


def small_timeline() -> dict[str, list[dict[str, Any]]]:
    """A history with one of everything."""
    posterior = {"S": 0.5, "H": 0.5}
    judged = {"emotion": "S", "confidence": 0.5, "unsure": False, "posterior": json.dumps(posterior), "bundle_version": "compact-1"}
    first = {"stream": "one", "start_sample": 0, "end_sample": 32_000, "start_at": text_of(NOON), "zone": "Europe/Paris", "state": "judged"}
    first |= {"end_at": text_of(NOON + timedelta(seconds=2)), "judged_at": text_of(NOON), "transcript": "=hello", "reason": None, **judged}
    said = {"segment_id": 1, "emotion": "H", "confirmed": False, "at": text_of(NOON + timedelta(hours=1)), "undone_at": None}
    heard = {"stream": "one", "kind": "heard", "start_at": text_of(NOON - timedelta(hours=1)), "reason": "", "zone": "Europe/Paris"}
    felt = {"at": text_of(NOON + timedelta(hours=2)), "zone": "Europe/Paris", "valence": -0.25, "emotion": "S", "note": "@tired"}
    return {
        "segment": [first],
        "correction": [said],
        "coverage": [heard | {"end_at": text_of(NOON + timedelta(hours=1))}],
        "checkin": [felt],
        "prompt": [{"at": text_of(NOON + timedelta(hours=1)), "zone": "Europe/Paris", "checkin_id": 1}],
    }
