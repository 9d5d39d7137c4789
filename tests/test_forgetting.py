"""What is forgotten is found in no byte of any file afterwards, and everything else is as it was."""

import json
import os
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from model.errors import TimelineError, TimelineInUse
from model.manifest import digests, find_bundle, read_manifest
from model.types import Emotion, Prediction
from model.voice_reference import VoiceSums
from monitor.config import Config
from monitor.control import ControlServer, socket_path
from monitor.day.stretches import Stretch, parse_stretch
from monitor.forgetting import finish, forget, forget_all, interrupted, survey
from monitor.forgetting_text import receipt_of
from monitor.judging.bundle_choice import BundleChoice
from monitor.library import Library, go_live
from monitor.look import in_use_of
from monitor.store.backup import Backups
from monitor.store.cipher import StoreKey
from monitor.store.lock import DatabaseLock
from monitor.store.reader import TimelineReader
from monitor.store.records import Coverage, Judgement
from monitor.store.timeline import Timeline
from monitor.store.voice_reference import HeardAgainst
from monitor.store.words import Words
from tests.bundles import Monitor, trained
from tests.commands import run
from tests.pages import everything
from tests.stores import keys, raw

PARIS = ZoneInfo("Europe/Paris")
NOON = datetime(2026, 7, 14, 12, 0, 0, 918273, tzinfo=UTC)
HOUR = timedelta(hours=1)
GONE = Stretch(NOON.replace(microsecond=0), NOON.replace(microsecond=0) + HOUR)
WITHIN, BEFORE, AFTER = NOON + timedelta(minutes=20), NOON - timedelta(minutes=20), NOON + timedelta(minutes=80)


def sound(seed: int) -> bytes:
    return np.random.default_rng(seed).integers(-3000, 3000, 32_000, np.int16).tobytes()


def voice(number: int) -> VoiceSums:
    """What the piece of that number adds to the reference of the voice."""
    return VoiceSums(1.0, 2.0, np.random.default_rng(1000 + number).normal(size=16).astype(np.float32))


class Life:
    """A timeline with something said before, within and after the hour that is to be forgotten, its backups and an older one put aside."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "state" / "emosllm-monitor"
        self.config = Config()
        self.database = self.config.timeline.database_path()
        self.backups = Backups.of(self.config.timeline)
        self.ids: dict[str, int] = {}

    def live(self, sounds: bool = True) -> None:
        with closing(Timeline.open(self.database, PARIS, keys())) as timeline, Words.open(self.database, PARIS, keys()) as words:
            timeline.cover(Coverage.HEARD, NOON - HOUR, NOON + 2 * HOUR)
            for number, (name, at) in enumerate((("before", BEFORE), ("within", WITHIN), ("after", AFTER))):
                self.ids[name] = self._say(timeline, number, at, f"{name}-words")
                timeline.cover(Coverage.PAUSED, at + timedelta(seconds=30), at + timedelta(seconds=40), f"{name}-reason")
                words.asked(at + timedelta(seconds=70))
                words.check_in(at + timedelta(seconds=80), -0.5, Emotion.SAD, f"{name}-note")
                words.correct(self.ids[name], Emotion.HAPPY)
                waiting = timeline.add_segment(
                    start_sample=10**6 * number + 5,
                    end_sample=10**6 * number + 32_005,
                    start_at=at + timedelta(seconds=4, microseconds=number),
                    end_at=at + timedelta(seconds=6),
                    sound=sound(100 + number) if sounds else b"12",
                )
                self.ids[f"{name} waiting"] = waiting

    def _say(self, timeline: Timeline, number: int, at: datetime, words: str) -> int:
        segment = timeline.add_segment(
            start_sample=10**6 * number,
            end_sample=10**6 * number + 32_000,
            start_at=at,
            end_at=at + timedelta(seconds=2),
            sound=sound(number),
            microphone="desk",
        )
        said = Prediction({Emotion.SAD: 0.75, Emotion.HAPPY: 0.25}, False, f"{words}-bundle")
        timeline.judge({segment: Judgement(said, words, None, HeardAgainst("space", voice(number), None))}, keep_sound=True)
        return segment

    def summarize(self) -> None:
        with closing(raw(self.database)) as connection:
            for name, day in (("within", "2026-07-14"), ("other", "2026-07-13")):
                end = datetime.fromisoformat(day) + timedelta(days=1)
                connection.execute(
                    "INSERT INTO day_summary VALUES (?, 'UTC', ?, ?, 1, ?)",
                    (day, f"{day} 00:00:00.000000", f"{end:%Y-%m-%d} 00:00:00.000000", f"{name}-summary"),
                )
            connection.commit()

    def all_bytes(self, *more: StoreKey) -> bytes:
        known = [keys().find(self.database)] if self.database.exists() else []
        return everything([self.folder], [*known, *more])

    def rows(self) -> dict[str, list[Any]]:
        queries = {
            "segment": "SELECT stream, start_sample, transcript FROM segment ORDER BY id",
            "sound": "SELECT segment_id FROM sound",
            "correction": "SELECT segment_id FROM correction",
            "coverage": "SELECT kind, start_at, end_at FROM coverage ORDER BY kind, start_at",
            "checkin": "SELECT note FROM checkin ORDER BY at",
            "prompt": "SELECT at FROM prompt ORDER BY at",
            "day_summary": "SELECT summary FROM day_summary",
            "voice_hour": "SELECT on_date, start_at, end_at, segments, sums FROM voice_hour ORDER BY start_at",
        }
        with closing(raw(self.database)) as connection:
            return {table: connection.execute(query).fetchall() for table, query in queries.items()}


@pytest.fixture
def life(home: Path) -> Life:
    life = Life(home)
    life.live()
    life.summarize()
    return life


def traces(name: str) -> list[bytes]:
    """What one piece of the life has left: words, notes, reasons, the model's version, sound, moments, what was learned of the voice."""
    number, at = {"before": (0, BEFORE), "within": (1, WITHIN), "after": (2, AFTER)}[name]
    moments = [at, at + timedelta(seconds=2), at + timedelta(seconds=80), at + timedelta(seconds=4, microseconds=number)]
    texts = [f"{name}-words", f"{name}-note", f"{name}-reason", *(f"{moment:%Y-%m-%d %H:%M:%S.%f}" for moment in moments)]
    return [*(text.encode() for text in texts), sound(number)[:2000], sound(100 + number)[:2000], voice(number).to_bytes()]


# what goes and what stays ----------------------------------------------------------------------------------------


def test_no_byte_of_it_is_left_in_any_file_and_the_rest_is_as_it_was(life: Life) -> None:
    life.backups.make(NOON)
    life.backups.restore(life.backups.make(NOON + HOUR), NOON)
    with closing(raw(life.database)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == 0
    life.backups.sweep()
    aside = next(life.database.parent.glob("*.aside-*"))
    before = life.all_bytes()
    assert all(trace in before for name in ("before", "within", "after") for trace in traces(name))
    assert b"within-summary" in before
    rows = life.rows()

    receipt = forget(life.config, GONE)

    after = life.all_bytes()
    assert not [trace for trace in (*traces("within"), b"within-summary") if trace in after]
    assert all(trace in after for name in ("before", "after") for trace in traces(name))
    assert receipt.found.segments == 2
    assert receipt.found.checkins == receipt.found.prompts == receipt.found.corrections == receipt.found.summaries == 1
    assert receipt.found.voice_hours == 1
    assert "what the monitor learned of your voice in 1 hour, the whole of each" in "\n".join(receipt_of(receipt, "", remote=False))
    assert receipt.rewritten == [*(backup.path.name for backup in life.backups.found()), aside.name]
    assert not receipt.left
    left = life.rows()
    assert left["checkin"] == [("before-note",), ("after-note",)]
    assert left["segment"] == [row for row in rows["segment"] if row[1] // 10**6 != 1]
    assert left["voice_hour"] == [rows["voice_hour"][0], rows["voice_hour"][2]]
    assert left["day_summary"] == [("other-summary",)]
    assert not survey(life.config, GONE)
    assert not interrupted(life.config.timeline)


def test_the_time_is_unknown_afterwards_not_silent(life: Life) -> None:
    forget(life.config, GONE)
    heard = [(start, end) for kind, start, end in life.rows()["coverage"] if kind == "heard"]
    assert heard == [
        ("2026-07-14 11:00:00.918273", "2026-07-14 12:00:00.000000"),
        ("2026-07-14 13:00:00.000000", "2026-07-14 14:00:00.918273"),
    ]


def test_a_segment_across_the_border_goes_as_a_whole(life: Life) -> None:
    edge = Stretch(WITHIN + timedelta(seconds=1), WITHIN + timedelta(seconds=1, milliseconds=1))
    assert forget(life.config, edge).found.segments == 1
    assert b"within-words" not in life.all_bytes()


def test_an_answer_that_is_forgotten_takes_its_question_along(life: Life) -> None:
    with Words.open(life.database, PARIS, keys(), clock=lambda: WITHIN + timedelta(seconds=6)) as words:
        words.asked(WITHIN - timedelta(seconds=10))
        words.check_in(WITHIN + timedelta(seconds=5), 0.5, Emotion.HAPPY)
    forget(life.config, Stretch(WITHIN, WITHIN + HOUR))
    assert [row[0][:19] for row in life.rows()["prompt"]] == ["2026-07-14 11:41:10", "2026-07-14 13:21:10"]


def test_forgetting_nothing_and_forgetting_twice_do_no_harm(life: Life) -> None:
    nothing = Stretch(NOON - timedelta(days=9), NOON - timedelta(days=8))
    rows = life.rows()
    assert not forget(life.config, nothing).found
    assert life.rows() == rows
    forget(life.config, GONE)
    rows = life.rows()
    assert not forget(life.config, GONE).found
    assert life.rows() == rows


def test_backups_that_hold_nothing_of_it_are_not_touched(life: Life) -> None:
    life.backups.make(NOON)
    forget(life.config, GONE)
    content = [backup.path.read_bytes() for backup in life.backups.found()]
    assert forget(life.config, GONE).rewritten == []
    assert [backup.path.read_bytes() for backup in life.backups.found()] == content


def test_a_backup_of_older_tables_is_cleaned_too(life: Life) -> None:
    with closing(raw(life.database)) as connection:
        for trigger in [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]:
            connection.execute(f"DROP TRIGGER {trigger}")
        for table in ("day_summary", "prompt", "checkin", "correction", "sharing", "outbox", "voice_hour", "voice_reference"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("UPDATE alembic_version SET version_num = '0002'")
        connection.commit()
    life.backups.make(NOON)
    assert forget(life.config, GONE).rewritten == [life.backups.found()[0].path.name]
    after = life.all_bytes()
    assert b"within-words" not in after
    assert b"before-words" in after


def test_a_damaged_backup_goes_and_one_without_its_key_is_named(life: Life, tmp_path: Path) -> None:
    damaged = life.backups.make(NOON)
    content = bytearray(damaged.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    damaged.write_bytes(content)
    foreign = life.backups.make(NOON + HOUR)
    foreign.write_bytes(os.urandom(8192))
    receipt = forget(life.config, GONE)
    assert receipt.removed == [f"{damaged.name}, which was damaged"]
    assert not damaged.exists()
    assert foreign.exists()
    assert str(foreign) in receipt.left[0]


def test_numbers_are_not_given_again(life: Life) -> None:
    last = max(life.ids.values())
    forget(life.config, Stretch(NOON + HOUR, NOON + 2 * HOUR))
    with closing(Timeline.open(life.database, PARIS, keys())) as timeline:
        fresh = timeline.add_segment(start_sample=1, end_sample=2, start_at=AFTER, end_at=AFTER + HOUR / 100, sound=b"12")
        # An answer to a question that was asked before, and comes now, finds nobody.
        assert timeline.judge({last: Judgement(Prediction({Emotion.SAD: 1.0}, False, "late"))}) == []
    assert fresh > last


# bundles ---------------------------------------------------------------------------------------------------------


def bundle(folder: Path, learned: str | None) -> Path:

    folder.mkdir(parents=True)
    manifest = json.loads((find_bundle("compact") / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(manifest | {"version": folder.name}))
    (folder / "mapper.safetensors").write_bytes(b"weights of " + folder.name.encode())
    if learned is not None:
        (folder / "learned_from.json").write_text(learned)
    return folder


def test_bundles_that_learned_from_it_are_retired_and_others_are_not(life: Life, tmp_path: Path) -> None:
    own = life.folder / "bundles"
    span = {"from": "2026-07-01T00:00:00Z", "to": "2026-07-02T00:00:00Z"}
    later = {"from": "2026-07-14T00:00:00+02:00", "to": "2026-07-15T00:00:00+02:00"}
    guilty = [
        bundle(own / "by-number", json.dumps(span | {"segments": [life.ids["within"]]})),
        bundle(own / "by-time", json.dumps(later | {"segments": []})),
        bundle(own / "illegible", "{"),
        bundle(tmp_path / "configured", json.dumps(later | {"segments": []})),
    ]
    innocent = [bundle(own / "earlier", json.dumps(span | {"segments": [life.ids["before"]]})), bundle(own / "given", None)]
    config = life.config.model_copy(update={"engine": life.config.engine.model_copy(update={"bundle": str(tmp_path / "configured")})})
    assert BundleChoice(config.engine.bundle, life.folder / "bundles.json").current == str(tmp_path / "configured")
    receipt = forget(config, GONE)
    assert sorted(receipt.retired) == sorted(folder.name for folder in guilty)
    assert all(sorted(file.name for file in folder.iterdir()) == ["bundle.json", "retired.json"] for folder in guilty)
    assert all((folder / "mapper.safetensors").exists() for folder in innocent)
    choice = BundleChoice(config.engine.bundle, life.folder / "bundles.json")
    assert choice.current == "compact"
    assert choice.aside == "", "what is in use instead is what should be"
    assert receipt.instead == read_manifest(find_bundle("compact")).version


def test_where_the_one_in_use_learned_from_it_the_one_before_is_used_instead(life: Life, tmp_path: Path) -> None:
    innocent, guilty = used(life, tmp_path)
    receipt = forget(life.config, GONE)
    assert (receipt.retired, receipt.instead) == ([guilty], innocent)
    in_use = Library.of(life.config).in_use
    assert in_use.current == str(life.folder / "bundles" / innocent)
    assert "erased" in in_use.uses()[-1].why
    assert in_use.previous() == "compact"
    assert "in use instead: " + innocent in "\n".join(receipt_of(receipt, "", remote=False))


def test_a_running_monitor_leaves_it_at_once_and_after_it_is_deleted(life: Life, tmp_path: Path) -> None:
    innocent, guilty = used(life, tmp_path)
    monitor, told = Monitor(), []

    def use(arguments: Any) -> dict[str, Any]:
        told.append(sorted(path.name for path in (life.folder / "bundles" / guilty).rglob("*") if path.is_file()))
        return monitor.use(arguments)

    commands = {"forget": lambda _arguments: {}, "voice-changed": lambda _arguments: {}, "use-bundle": use}
    with DatabaseLock(life.database, "mic"), ControlServer(socket_path(life.database), commands):
        assert forget(life.config, GONE).left == []
    assert (monitor.using, told) == (str(life.folder / "bundles" / innocent), [["bundle.json", "retired.json"]])


def test_a_monitor_that_does_not_leave_it_is_named_and_a_later_forget_tries_again(life: Life, tmp_path: Path) -> None:
    innocent, _guilty = used(life, tmp_path)
    monitor = Monitor(refusing="the engine is ill")
    commands = {"forget": lambda _arguments: {}, "voice-changed": lambda _arguments: {}, "use-bundle": monitor.use}
    with DatabaseLock(life.database, "mic"), ControlServer(socket_path(life.database), commands):
        receipt = forget(life.config, GONE)
    assert len(monitor.asked) == 2
    assert "stop it and start it again (the engine is ill)" in receipt.left[0]
    assert in_use_of(life.config) == str(life.folder / "bundles" / innocent), "the next start uses the one before"
    assert forget(life.config, GONE).instead


def test_a_monitor_that_went_back_to_a_retired_one_is_told_too(life: Life, tmp_path: Path) -> None:
    used(life, tmp_path)
    Library.of(life.config).in_use.use("compact", "by hand", NOON)
    monitor = Monitor()
    commands = {"forget": lambda _arguments: {}, "voice-changed": lambda _arguments: {}, "use-bundle": monitor.use}
    with DatabaseLock(life.database, "mic"), ControlServer(socket_path(life.database), commands):
        receipt = forget(life.config, GONE)
    assert (monitor.asked, receipt.instead) == (["compact"], "")


def test_a_bundle_that_was_half_moved_goes_too(life: Life) -> None:
    half = life.folder / "bundles" / ".coming-night"
    half.mkdir(parents=True)
    (half / "mapper.safetensors").write_bytes(b"within-words, learned")
    forget(life.config, GONE)
    assert not half.exists()


def used(life: Life, tmp_path: Path) -> tuple[str, str]:
    """Versions of two bundles that went live: one that did not learn from the hour, and one in use that did."""
    library = Library.of(life.config)
    innocent = library.add(trained(tmp_path / "innocent", told=False)).name
    folder = trained(tmp_path / "guilty", 2, told=False)
    span = {"from": "2026-07-01T00:00:00Z", "to": "2026-07-02T00:00:00Z"}
    (folder / "learned_from.json").write_text(json.dumps(span | {"segments": [life.ids["within"]]}))
    manifest = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(manifest | {"files": digests(folder)}))
    guilty = library.add(folder).name
    for version in (innocent, guilty):
        go_live(life.config, version, "learned from you")
    return innocent, guilty


# beside a monitor ------------------------------------------------------------------------------------------------


def test_a_running_monitor_is_told_before_anything_is_erased(life: Life) -> None:
    told = []

    def answer(arguments: Any) -> dict[str, Any]:
        told.append((dict(arguments), b"within-words" in life.all_bytes()))
        return {}

    with DatabaseLock(life.database, "mic"), ControlServer(socket_path(life.database), {"forget": answer}):
        forget(life.config, GONE)
    assert told == [({"start": GONE.start.isoformat(), "end": GONE.end.isoformat()}, True)]
    assert b"within-words" not in life.all_bytes()


def test_what_holds_the_timeline_and_does_not_answer_stops_it_and_the_next_start_goes_on(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.forgetting._PATIENCE_S", 0.1)
    with DatabaseLock(life.database, "mic"), pytest.raises(TimelineInUse, match="already in use"):
        forget(life.config, GONE)
    assert interrupted(life.config.timeline)
    with DatabaseLock(life.database, "mic"):
        assert finish(life.config, locked=True) is not None
    assert b"within-words" not in life.all_bytes()


def test_one_that_writes_and_reads_meanwhile_is_not_disturbed(life: Life) -> None:
    with closing(Timeline.open(life.database, PARIS, keys())) as timeline, TimelineReader.open(life.database, keys()) as reader:
        reader.segments_between(GONE.start, GONE.end)
        forget(life.config, GONE)
        assert reader.segments_between(GONE.start, GONE.end) == []
        assert timeline.sound(life.ids["within waiting"]) is None
        assert timeline.sound(life.ids["after waiting"]) == sound(102)
        timeline.give_up([life.ids["within waiting"]], "too late")
        timeline.cover(Coverage.HEARD, NOON + 2 * HOUR, NOON + 3 * HOUR)
        after = life.all_bytes()
    assert not [trace for trace in traces("within") if trace in after]


def test_a_reader_that_holds_on_is_waited_for_then_named(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.store.erasure._PATIENCE_S", 0.3)
    with closing(raw(life.database)) as holding:
        holding.execute("PRAGMA journal_mode = WAL")
        holding.execute("BEGIN")
        holding.execute("SELECT * FROM segment").fetchone()
        with pytest.raises(TimelineError, match="still reading"):
            forget(life.config, GONE)
        assert interrupted(life.config.timeline)
    assert finish(life.config) is not None
    assert not [trace for trace in traces("within") if trace in life.all_bytes()]


# everything ------------------------------------------------------------------------------------------------------


def test_everything_is_the_key_too_so_that_no_copy_can_be_read(life: Life, tmp_path: Path) -> None:
    key = keys().find(life.database)
    copy = life.backups.make(NOON).read_bytes()
    bundle(life.folder / "bundles" / "night", json.dumps({"segments": [life.ids["within"]], "from": "x", "to": "x"}))
    (life.folder / "monitor.log").write_text("2026")
    (life.folder / "bundles.json").write_text('{"proven": [], "aside": {}}')
    (life.folder / "other.key").write_text("of another timeline")
    receipt = forget_all(life.config)
    assert receipt.keys == [str(life.folder / "timeline.key")]
    assert receipt.retired == ["night"]
    left = sorted(path.relative_to(life.folder).as_posix() for path in life.folder.rglob("*") if path.is_file())
    assert left == ["bundles/night/bundle.json", "bundles/night/retired.json", "other.key", "timeline.db.lock"]
    everywhere = life.all_bytes(key)
    assert not [trace for name in ("before", "within", "after") for trace in traces(name) if trace in everywhere]
    assert key.digits.encode() not in everywhere
    (tmp_path / "stolen.db").write_bytes(copy)
    with pytest.raises(TimelineError, match="key is missing"):
        keys().find(life.database, copy=tmp_path / "stolen.db")
    life.live()
    assert keys().find(life.database) != key


def test_everything_is_not_forgotten_under_a_running_monitor(life: Life) -> None:
    with DatabaseLock(life.database, "mic"), pytest.raises(TimelineInUse, match="stop it first"):
        forget_all(life.config)
    assert not interrupted(life.config.timeline)
    assert b"within-words" in life.all_bytes()


def test_a_timeline_whose_key_is_lost_can_be_forgotten(life: Life) -> None:
    (life.folder / "timeline.key").unlink()
    receipt = forget_all(life.config)
    assert (receipt.keys, "timeline.db" in receipt.removed) == ([], True)
    assert not life.database.exists()


def test_a_key_in_the_environment_is_named_as_out_of_reach(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOSLLM_STORE_KEY", keys().find(life.database).digits)
    assert "EMOSLLM_STORE_KEY" in forget_all(life.config).left[0]


def test_where_there_is_no_timeline_there_is_nothing_to_forget(home: Path) -> None:
    assert not forget(Config(), GONE).found
    assert forget_all(Config()).removed == []


# commands --------------------------------------------------------------------------------------------------------


def test_the_command_shows_asks_and_gives_a_receipt(life: Life) -> None:
    life.backups.make(NOON)
    asked = run("forget", "--from", "2026-07-14T14:00", "--to", "2026-07-14T15:00")
    assert asked.returncode == 1
    assert "2 pieces of speech, 1 with words, 2 with sound" in asked.stdout
    assert "say --yes" in asked.stderr
    assert b"within-words" in life.all_bytes()
    done = run("forget", "--from", "2026-07-14T14:00", "--to", "2026-07-14T15:00", "--yes")
    assert done.returncode == 0, done.stderr
    for text in (
        "2 pieces of speech",
        "1 correction, 1 check-in, 1 question",
        "written anew without it: timeline-",
        "Nothing of it is left",
    ):
        assert text in done.stdout
    assert "exports, reports and pictures" in done.stdout
    assert b"within-words" not in life.all_bytes()
    assert "There was nothing to forget" in run("forget", "--day", "2020-01-01", "--yes").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to forget"),
        (["--to", "12:00"], "--to needs --from"),
        (["--all", "--day", "today"], "give either --all"),
        (["--from", "2999-01-01"], "still to come"),
        (["--from", "2026-07-14T15:00", "--to", "2026-07-14T14:00"], "is not after"),
        (["--from", "noon"], "'noon' is no moment"),
    ],
)
def test_what_makes_no_sense_is_refused(life: Life, arguments: list[str], message: str) -> None:
    done = run("forget", *arguments, "--yes")
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr
    assert b"within-words" in life.all_bytes()


@pytest.mark.parametrize(
    ("begin", "finish", "start", "end"),
    [
        ("2026-07-14", "2026-07-14", "2026-07-13T22:00", "2026-07-14T22:00"),
        ("10:00", None, "2026-07-14T08:00", "9999-01-01T00:00"),
        ("2026-07-14T10:00Z", "2026-07-14T10:30+00:00", "2026-07-14T10:00", "2026-07-14T10:30"),
        # Twice on the clock, and skipped by it: always the longer stretch.
        ("2025-10-26T02:30", "2025-10-26T02:40", "2025-10-26T00:30", "2025-10-26T01:40"),
        ("2026-03-29T02:30", "2026-03-29T02:40", "2026-03-29T00:30", "2026-03-29T01:40"),
    ],
)
def test_moments_are_of_the_local_clock_and_days_are_whole(begin: str, finish: str | None, start: str, end: str) -> None:
    stretch = parse_stretch(None, begin, finish, PARIS, NOON)
    assert (f"{stretch.start:%Y-%m-%dT%H:%M}", f"{stretch.end:%Y-%m-%dT%H:%M}") == (start, end)
