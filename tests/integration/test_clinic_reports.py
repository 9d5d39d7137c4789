"""A clinician's report is the person's own; the daemon shares from its first segment to its last; and what tells of it tells the truth."""

from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from model.errors import ClinicError, ConfigError
from monitor.clinic.address import ClinicAddress
from monitor.clinic.admin import audit
from monitor.config import Config, StoreConfig, TimelineConfig, load_config
from monitor.doctor.checks import check_clinic as check
from monitor.doctor.findings import Verdict
from monitor.doctor.network import clinic_addresses
from monitor.reports.data import PeriodOptions
from monitor.reports.formats import collect_shared_report
from monitor.storage.writer import TimelineWriter
from tests.support.bundles import NANO
from tests.support.clinic import NOON, PARIS, Clinic, SharingPerson, name
from tests.support.commands import configure, run
from tests.support.days import SimulatedPerson as MadeUp
from tests.support.days import write_days
from tests.support.paths import DEMO
from tests.support.storage import keys, raw

LAST = date(2026, 7, 14)


@pytest.fixture
def person(home: Path, clinic: Clinic) -> SharingPerson:
    """Five weeks, shared; the settings of their machine are in Paris."""
    person = SharingPerson(Config().timeline.database_path(), clinic)
    person.share()
    with closing(raw(person.path)) as connection:
        write_days(connection, PARIS, LAST - timedelta(days=34), 35, MadeUp(segments=30, no_data=0, little=0, corrected=9))
        connection.commit()
    person.close()
    person.send()
    return person


def test_a_clinician_gets_the_persons_own_report_and_each_reading_is_written_down(
    person: SharingPerson, home: Path, tmp_path: Path
) -> None:
    clinician = name("clinician")
    url = person.clinic.add("clinician", clinician)
    person.clinic.entrust(clinician, person.subject)
    elsewhere = {"EMOSLLM_STORE_URL": url, "XDG_STATE_HOME": str(tmp_path), "TZ": "Asia/Tokyo"}
    # A model that learns no voice: a clinic is told nothing of that.
    configure(home, timeline={"zone": "Europe/Paris"}, engine={"bundle": str(NANO)})
    for arguments in (["--day", str(LAST)], ["--week", "--day", str(LAST), "--format", "csv"], ["--sheet", "--day", str(LAST)]):
        if "--sheet" in arguments:
            arguments = [*arguments, "--out"]
            own, theirs = run("report", *arguments, str(tmp_path / "own.html")), None
            configure(home, engine={"bundle": str(NANO)})
            theirs = run("report", *arguments, str(tmp_path / "theirs.html"), "--subject", person.subject, environment=elsewhere)
            assert (own.returncode, theirs.returncode) == (0, 0), own.stderr + theirs.stderr
            assert _undated(tmp_path / "own.html") == _undated(tmp_path / "theirs.html")
        else:
            own = run("report", *arguments)
            theirs = run("report", *arguments, "--subject", person.subject, environment=elsewhere)
            assert own.stdout == theirs.stdout, theirs.stderr
            assert len(own.stdout) > 500
    noted = [one for one in audit(person.clinic.administrator, person.subject, 1000) if one.login == clinician]
    readings = ["read zone", "read segments and corrections", "read coverage", "read check-ins", "read prompts"]
    assert [one.what for one in noted] == 3 * readings
    stranger = person.clinic.add("clinician", name("clinician"))
    refused = run("report", "--subject", person.subject, environment={**elsewhere, "EMOSLLM_STORE_URL": stranger})
    assert refused.returncode == 1
    assert "not entrusted to you" in refused.stderr


def _undated(path: Path) -> str:
    """A page without the minute in which it was made, which another clock shows otherwise."""
    import re

    return re.sub(r"\d\d:\d\d", "", path.read_text())


def test_the_commands_for_operators_and_what_the_subject_sees(clinic: Clinic) -> None:
    root = {"EMOSLLM_STORE_URL": clinic.administrator.url_for("root", "root-secret")}
    subject, clinician, operator = name(), name("clinician"), name("op")
    assert "(schema 0004)" in run("clinic", "setup", environment=root).stdout
    made = run("clinic", "add-operator", operator, environment=root)
    own = {"EMOSLLM_STORE_URL": made.stdout.strip()}
    url = run("clinic", "add-subject", subject, environment=own).stdout.strip()
    assert ClinicAddress.parse(url, "it").user == subject
    assert run("clinic", "add-clinician", clinician, environment=own).returncode == 0
    assert run("clinic", "entrust", clinician, subject, environment=own).returncode == 0
    assert f"no data yet; access: {clinician}" in run("clinic", "subjects", environment=own).stdout
    assert run("clinic", "withdraw", clinician, subject, environment=own).returncode == 0
    seen = run("clinic", "audit", environment={"EMOSLLM_STORE_URL": url}).stdout
    assert [line.split("  ")[1:3] for line in seen.splitlines()] == [
        [operator, what] for what in ("added subject", "entrusted", "withdrawn")
    ]
    unasked = run("clinic", "remove-subject", subject, environment=own)
    assert (unasked.returncode, "pass --yes" in unasked.stderr) == (1, True)
    assert "(0 rows)" in run("clinic", "remove-subject", subject, "--yes", environment=own).stdout
    password = ClinicAddress.parse(own["EMOSLLM_STORE_URL"], "it").password
    refused = run("clinic", "add-operator", name("op"), environment=own)
    assert refused.returncode == 1
    assert "this takes an administrator" in refused.stderr
    assert password
    assert password not in refused.stderr


def test_the_daemon_shares_from_its_first_segment_to_its_last(home: Path, clinic: Clinic) -> None:
    subject = name()
    url = clinic.add("subject", subject)
    configure(home, store={"url": url, "share_past": True}, engine={"kind": "transformers"})
    done = run("start", "--source", str(DEMO), "--speed", "max", "--at", "2026-01-05T09:00")
    assert done.returncode == 0, done.stdout + done.stderr
    person = SharingPerson(Config().timeline.database_path(), clinic, subject, url)
    assert person.there() == person.here()
    assert len(person.there()["segment"]) > 10
    assert person.waiting() == 0
    log = (home / "state" / "emosllm-monitor" / "monitor.log").read_text()
    assert person.address.password
    assert person.address.password not in log + done.stdout + done.stderr
    person.close()


def test_the_doctor_says_what_is_shared_and_tries_the_way_there(home: Path, clinic: Clinic) -> None:
    assert check(Config()).detail.startswith("nothing is shared")
    subject = name()
    url = clinic.add("subject", subject)
    config = Config(store=StoreConfig(url=url))
    TimelineWriter.open(Config().timeline.database_path(), PARIS, keys()).close()
    found = check(config)
    assert found.verdict is Verdict.OK
    assert f"{ClinicAddress.parse(url, 'it')} answers" in found.detail
    assert "never sound, words" in found.detail
    person = SharingPerson(Config().timeline.database_path(), clinic, subject, url)
    person.share(past=False, now=NOON)
    person.live()
    assert f"{person.waiting()} changes wait" in check(config).detail
    assert "since 2026-07-14 14:00" in check(Config(store=StoreConfig(url=url), timeline=TimelineConfig(zone="Europe/Paris"))).detail
    person.close()
    with pytest.raises(ClinicError, match="denied this login: only subjects may do that"):
        check(Config(store=StoreConfig(url=clinic.add("clinician", name("clinician")))))
    with pytest.raises(ClinicError, match=r"cannot use the clinic's database"):
        check(Config(store=StoreConfig(url="postgresql://a:secret-password@127.0.0.1:1/x")))
    far = Config(store=StoreConfig(url="postgresql://a@192.0.2.7/x?sslmode=verify-full"))
    assert set(clinic_addresses(far.store)) == {("192.0.2.7", 5432)}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://anna:secret@clinic.example/emosllm", "sslmode=verify-full"),
        ("postgresql://anna:secret@clinic.example/emosllm?sslmode=require", "sslmode=verify-full"),
        ("postgresql://anna:secret@192.0.2.1/emosllm?sslmode=verify-ca", "sslmode=verify-full"),
        ("postgresql://anna:secret@localhost/emosllm?hostaddr=192.0.2.1", "unknown option hostaddr"),
        ("postgresql://anna:secret@localhost/emosllm?service=x", "unknown option service"),
        ("postgresql://anna:secret@localhost/emosllm?host=192.0.2.1", "one server"),
        ("postgresql://anna:secret@localhost,clinic.example/emosllm", "one server|for example"),
        ("postgresql://anna:secret@/emosllm?host=clinic.example", "sslmode=verify-full"),
        ("postgresql://anna:secret@localhost", "for example"),
        ("postgresql://localhost/emosllm?password=secret", "for example"),
        ("postgresql://anna:secret@localhost:port/emosllm", "for example"),
        ("mysql://anna:secret@localhost/emosllm", "for example"),
        ("secret", "for example"),
    ],
)
def test_a_url_that_is_open_to_others_or_unclear_is_refused_and_not_shown(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        ClinicAddress.of(StoreConfig(url=url))
    assert "secret" not in str(refused.value)


def test_a_url_on_this_machine_or_to_a_server_that_proves_who_it_is_is_taken(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    far = ClinicAddress.parse("postgresql://anna:p%40ss@clinic.example:6000/emosllm?sslmode=verify-full&sslrootcert=/etc/ca.pem", "it")
    assert (str(far), far.password) == ("anna@clinic.example:6000/emosllm", "p@ss")
    assert far.parameters() | {"sslmode": "verify-full", "sslrootcert": "/etc/ca.pem", "host": "clinic.example"} == far.parameters()
    assert ClinicAddress.parse(far.url_for("berta", "word"), "it").options == far.options
    monkeypatch.setenv("PGHOST", "elsewhere.example")
    for url in ("postgresql://anna@/emosllm", "postgresql://anna@/emosllm?host=/run/pg", "postgresql://anna@[::1]/emosllm"):
        found = ClinicAddress.parse(url, "it")
        assert found.is_here
        assert found.parameters()["host"] in ("/var/run/postgresql", "/run/pg", "::1")
        assert ClinicAddress.parse(found.url_for("berta", "word"), "it").host == found.host
    configure(home, store={"url": "postgresql://anna@localhost/emosllm"})
    assert load_config().store.url.endswith("/emosllm")
    monkeypatch.setenv("EMOSLLM_STORE_URL", "postgresql://berta@localhost/other")
    assert str(ClinicAddress.needed(load_config().store)) == "berta@localhost/other"
    monkeypatch.delenv("EMOSLLM_STORE_URL")
    with pytest.raises(ConfigError, match="no clinic is configured"):
        ClinicAddress.needed(StoreConfig())


def test_what_another_machine_sent_cannot_drive_a_clinicians_terminal(clinic: Clinic, tmp_path: Path) -> None:
    person, clinician = SharingPerson(tmp_path / "timeline.db", clinic), name("clinician")
    person.share()
    person.timeline.give_up([person.speak(NOON, judged=False)], "\x1b]0;mine\x07")
    person.send()
    person.close()
    url = clinic.add("clinician", clinician)
    clinic.entrust(clinician, person.subject)
    material = collect_shared_report(Config(store=StoreConfig(url=url)), person.subject, PeriodOptions(day="2026-07-14"), datetime.now(UTC))
    assert [entry.reason for entry in material.entries] == ["?]0;mine?"]
