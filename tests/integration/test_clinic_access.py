"""Who may do what in the clinic's database, with real logins, and TLS on the way there."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from model.errors import ClinicError
from monitor.clinic.address import ClinicAddress
from monitor.clinic.admin import Subject, add_login, audit, entrust, remove_subject, renew_password, set_up_clinic, subjects, withdraw
from monitor.clinic.connection import clinic_connection
from monitor.storage.outbox import SHARED
from tests.support.clinic import NOON, Clinic, Postgres, SharingPerson, make_certificate, name
from tests.support.commands import run

EVER = "'1990-01-01Z', '2100-01-01Z'"
READINGS = ("segments", "coverage", "checkins", "prompts")
REFUSED = errors.InsufficientPrivilege


@dataclass(frozen=True)
class Cast:
    """Two subjects who share, a clinician to whom the first is entrusted, one to whom nobody is, and an operator; URLs but for names."""

    anna: str
    berta: str
    annas: str
    bertas: str
    weber: str
    other: str
    operator: str
    webers: str


@pytest.fixture(scope="module")
def cast(clinic: Clinic, tmp_path_factory: pytest.TempPathFactory) -> Cast:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
        people = [SharingPerson(tmp_path_factory.mktemp("person") / "timeline.db", clinic) for _ in range(2)]
        for person in people:
            person.share()
            person.live()
            person.send()
            person.close()
    webers = name("clinician")
    weber, other, operator = clinic.add("clinician", webers), clinic.add("clinician", name("clinician")), clinic.add("operator", name("op"))
    clinic.entrust(webers, people[0].subject)
    return Cast(people[0].subject, people[1].subject, people[0].url, people[1].url, weber, other, operator, webers)


@contextlib.contextmanager
def session(url: str) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """Logged in; every statement is a transaction."""
    with contextlib.closing(psycopg.connect(url, autocommit=True)) as connection:
        yield connection


def of(url: str) -> ClinicAddress:
    return ClinicAddress.parse(url, "the test's URL")


# subjects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", SHARED)
def test_a_subject_sees_changes_and_erases_their_own_rows_only(cast: Cast, clinic: Clinic, table: str) -> None:
    with session(cast.annas) as anna:
        seen = anna.execute(f"SELECT DISTINCT subject FROM emosllm.{table}").fetchall()
        assert seen == [(cast.anna,)]
        assert anna.execute(f"SELECT 1 FROM emosllm.{table} WHERE subject = %s", (cast.berta,)).fetchall() == []
        assert anna.execute(f"UPDATE emosllm.{table} SET zone = 'x' WHERE subject = %s" if table in ("checkin", "prompt", "segment",
            "coverage") else f"UPDATE emosllm.{table} SET at = now() WHERE subject = %s", (cast.berta,)).rowcount == 0  # fmt: skip
        with anna.transaction(force_rollback=True):
            mine = anna.execute(f"DELETE FROM emosllm.{table}").rowcount
            assert mine > 0
    assert clinic.rows(f"SELECT count(*) > 0 FROM emosllm.{table} WHERE subject = %s", cast.berta) == [(True,)]


def test_a_subject_cannot_write_in_anothers_name_nor_take_over_their_rows(cast: Cast) -> None:
    insert = "INSERT INTO emosllm.prompt (subject, id, at, zone) VALUES (%s, 1, now(), 'UTC')"
    with session(cast.annas) as anna:
        with pytest.raises(REFUSED, match="row-level security"):
            anna.execute(insert, (cast.berta,))
        with pytest.raises(REFUSED, match="row-level security"):
            anna.execute("UPDATE emosllm.prompt SET subject = %s", (cast.berta,))
        # An upsert that meets the other's row.
        with pytest.raises(REFUSED, match="row-level security"):
            anna.execute(
                "INSERT INTO emosllm.checkin (subject, id, at, zone, valence, emotion)"
                " VALUES (%s, 1, %s, 'Europe/Paris', -0.1234567890123, 'S')"
                " ON CONFLICT (subject, at, zone, valence, emotion) DO UPDATE SET id = 99",
                (cast.berta, NOON),
            )


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM emosllm.segment_other",
        "SELECT * FROM emosllm.segment_2026_07",
        "DELETE FROM emosllm.coverage_2026_07",
        "SELECT * FROM emosllm.person",
        "SELECT * FROM emosllm.trust",
        "TRUNCATE emosllm.segment",
        "ALTER TABLE emosllm.segment DISABLE ROW LEVEL SECURITY",
        "CREATE POLICY all_mine ON emosllm.segment USING (true)",
        "CREATE TABLE emosllm.mine (x int)",
        "CREATE TABLE public.mine (x int)",
        "CREATE TEMP TABLE person (login text, kind text, subject text)",
        "SET ROLE emosllm_owner",
        "SET ROLE emosllm_operator",
        "SET SESSION AUTHORIZATION root",
        "SET log_min_messages = panic",
        "INSERT INTO emosllm.audit (login, what) VALUES ('nobody', 'nothing')",
        "SELECT emosllm.record('read nothing', 'x')",
        "SELECT emosllm.add_login('mallory', 'clinician', 'SCRAM-SHA-256$x')",
        "SELECT emosllm.entrust('mallory', 'x')",
        "SELECT emosllm.remove_subject('x')",
        f"SELECT * FROM emosllm.read_segments('x', {EVER})",
        "CREATE FUNCTION pg_temp.own_subject() RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$; SELECT 1 / 0",
    ],
)
def test_what_a_subject_may_not_do_is_refused(cast: Cast, statement: str) -> None:
    with session(cast.annas) as anna, pytest.raises((REFUSED, errors.DivisionByZero)):
        anna.execute(statement.encode())


def test_another_role_or_another_place_for_names_shows_nothing_more(cast: Cast) -> None:
    with session(cast.annas) as anna:
        for disguise in ("SET ROLE emosllm_subject", "SET search_path = public, pg_temp", "SET row_security = on"):
            anna.execute(disguise.encode())
            assert anna.execute("SELECT DISTINCT subject FROM emosllm.segment").fetchall() == [(cast.anna,)]
        # Without policies there is an error and no rows.
        anna.execute("SET row_security = off")
        with pytest.raises(REFUSED):
            anna.execute("SELECT * FROM emosllm.segment")


def test_a_function_in_the_condition_is_shown_no_others_rows(cast: Cast) -> None:
    with session(cast.annas) as anna:
        assert anna.execute("SELECT 1 FROM emosllm.segment WHERE 1 / (subject = %s)::int = 1", (cast.anna,)).fetchall()


# clinicians -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", READINGS)
def test_a_clinician_reads_who_is_entrusted_to_them_and_that_is_written_down(cast: Cast, clinic: Clinic, what: str) -> None:
    before = len(audit(clinic.administrator, cast.anna, 1000))
    with session(cast.weber) as weber:
        assert weber.execute(f"SELECT * FROM emosllm.read_{what}(%s, {EVER})", (cast.anna,)).fetchall()
    noted = audit(clinic.administrator, cast.anna, 1000)[before:]
    assert [(one.login, one.subject, one.what.split()[0]) for one in noted] == [(cast.webers, cast.anna, "read")]
    assert (str(noted[0].from_at), str(noted[0].to_at)) == ("1990-01-01 00:00:00+00:00", "2100-01-01 00:00:00+00:00")
    assert noted[0].address == "127.0.0.1"


@pytest.mark.parametrize("what", READINGS)
def test_who_is_not_entrusted_is_not_read_and_the_try_is_in_the_servers_log(
    cast: Cast, clinic: Clinic, postgres_server: Postgres, what: str
) -> None:
    for url, whom in ((cast.weber, cast.berta), (cast.other, cast.anna), (cast.weber, "no_such\nbody"), (cast.weber, None)):
        with session(url) as clinician, pytest.raises(REFUSED, match="not entrusted"):
            clinician.execute(f"SELECT * FROM emosllm.read_{what}(%s, {EVER})", (whom,))
    assert f"'{cast.webers}' was refused" in postgres_server.log
    assert f"of subject '{cast.berta}'" in postgres_server.log
    assert "'no_such?body'" in postgres_server.log


@pytest.mark.parametrize("table", [*SHARED, "segment_2026_07", "person", "trust", "audit", "clinic"])
def test_a_clinician_has_no_way_past_the_audit(cast: Cast, table: str) -> None:
    with session(cast.weber) as weber:
        for statement in (f"SELECT * FROM emosllm.{table}", f"DELETE FROM emosllm.{table}", f"COPY emosllm.{table} TO STDOUT"):
            with pytest.raises(REFUSED):
                weber.execute(statement.encode())


def test_reading_and_taking_that_back_leaves_a_line_in_the_servers_log(cast: Cast, postgres_server: Postgres) -> None:
    marker = f"19{secrets.randbelow(60) + 10}-01-01"
    with session(cast.weber) as weber, weber.transaction(force_rollback=True):
        weber.execute("SET LOCAL client_min_messages = error")
        assert weber.execute("SELECT * FROM emosllm.read_segments(%s, %s, '2100-01-01Z')", (cast.anna, marker)).fetchall()
    line = next(line for line in postgres_server.log.splitlines() if "emosllm audit" in line and marker in line)
    assert f"'{cast.webers}' read segments" in line
    assert f"'{cast.anna}'" in line


def test_where_nothing_can_be_written_nothing_can_be_read(cast: Cast) -> None:
    with session(cast.weber) as weber:
        weber.execute("SET default_transaction_read_only = on")
        with pytest.raises(errors.ReadOnlySqlTransaction):
            weber.execute(f"SELECT * FROM emosllm.read_segments(%s, {EVER})", (cast.anna,))


def test_functions_and_operators_of_ones_own_are_not_called_with_the_owners_rights(cast: Cast, clinic: Clinic) -> None:
    with clinic.server.superuser(clinic.database) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS trap")
        connection.execute("GRANT ALL ON SCHEMA trap TO PUBLIC")
    with session(cast.other) as other:
        other.execute(
            "CREATE OR REPLACE FUNCTION trap.is_less(text, text) RETURNS boolean LANGUAGE plpgsql"
            " AS $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$"
        )
        with contextlib.suppress(errors.DuplicateFunction):
            other.execute("CREATE OPERATOR trap.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.is_less)")
            other.execute("CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.is_less)")
        other.execute("CREATE OR REPLACE FUNCTION trap.entrusted() RETURNS text[] LANGUAGE sql AS $$ SELECT ARRAY['x'] $$")
        other.execute("SET search_path = trap, pg_catalog, emosllm")
        with pytest.raises(REFUSED, match="not entrusted"):
            other.execute(f"SELECT * FROM emosllm.read_segments(%s, {EVER})", (cast.anna,))


def test_every_function_with_the_owners_rights_fixes_where_names_are_looked_up_and_nobody_else_may_call_one(clinic: Clinic) -> None:
    rows = clinic.rows(
        "SELECT proname, prosecdef, proconfig::text, proacl::text, pg_get_userbyid(proowner) FROM pg_proc"
        " JOIN pg_namespace ON pg_namespace.oid = pronamespace WHERE nspname = 'emosllm'"
    )
    assert len(rows) > 15
    for function, with_owners_rights, settings, rights, owner in rows:
        assert with_owners_rights, function
        assert "search_path=pg_catalog, emosllm, pg_temp" in settings, function
        assert rights is not None, function
        assert "{=" not in rights, function  # the public's rights have no name before the sign
        assert ",=" not in rights, function
        assert owner == "emosllm_owner"
    for table, secured, forced in clinic.rows(
        "SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class WHERE relkind IN ('r', 'p')"
        " AND relnamespace = 'emosllm'::regnamespace AND relname !~ '^(alembic_version|clinic|person|trust)$'"
    ):
        assert secured, table
        assert forced, table


def test_what_is_withdrawn_cannot_be_read_any_more(cast: Cast, clinic: Clinic) -> None:
    login = name("clinician")
    url = clinic.add("clinician", login)
    entrust(of(cast.operator), login, cast.anna)
    read = f"SELECT * FROM emosllm.read_coverage(%s, {EVER})"
    with session(url) as clinician:
        assert clinician.execute(read, (cast.anna,)).fetchall()
        withdraw(of(cast.operator), login, cast.anna)
        with pytest.raises(REFUSED):
            clinician.execute(read, (cast.anna,))
    with pytest.raises(ClinicError, match="not entrusted"):
        withdraw(of(cast.operator), login, cast.anna)


# operators and the audit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        *(f"SELECT * FROM emosllm.{table}" for table in (*SHARED, "person", "segment_2026_07")),
        *(f"SELECT * FROM emosllm.read_{what}('x', {EVER})" for what in READINGS),
        "SELECT * FROM emosllm.begin_sending()",
        "CREATE ROLE mallory",
        "SET ROLE emosllm_owner",
        "GRANT emosllm_owner TO emosllm_operator",
        "GRANT pg_read_all_data TO emosllm_operator",
        "SELECT emosllm.add_login('another_operator', 'operator', 'SCRAM-SHA-256$x')",
        "UPDATE emosllm.audit SET login = 'x'",
        "DELETE FROM emosllm.audit",
        "TRUNCATE emosllm.audit",
        "INSERT INTO emosllm.audit (login, what) VALUES ('x', 'y')",
        "COPY emosllm.segment TO PROGRAM 'cat'",
    ],
)
def test_an_operator_reads_nothing_and_cannot_become_more(cast: Cast, statement: str) -> None:
    with session(cast.operator) as operator, pytest.raises(REFUSED):
        operator.execute(statement.encode())


def test_not_even_the_owner_changes_the_audit(clinic: Clinic) -> None:
    with clinic.server.superuser(clinic.database) as connection:
        for statement in ("UPDATE emosllm.audit SET login = 'x'", "DELETE FROM emosllm.audit", "TRUNCATE emosllm.audit"):
            with pytest.raises(REFUSED, match="only ever added to"):
                connection.execute(statement.encode())


def test_a_subject_sees_who_read_theirs_and_nothing_of_others(cast: Cast, clinic: Clinic) -> None:
    with session(cast.weber) as weber:
        weber.execute(f"SELECT * FROM emosllm.read_prompts(%s, {EVER})", (cast.anna,))
    mine = audit(of(cast.annas), None, 1000)
    assert {one.subject for one in mine} == {cast.anna}
    assert "read prompts" in {one.what for one in mine if one.login == cast.webers}
    assert {one.subject for one in audit(of(cast.bertas), None, 1000)} == {cast.berta}
    assert {cast.anna, cast.berta} <= {one.subject for one in audit(of(cast.operator), None, 100_000)}


def test_an_operator_adds_renews_entrusts_lists_and_removes(cast: Cast, clinic: Clinic, tmp_path: Path) -> None:
    operator, subject, login = of(cast.operator), name(), name("clinician")
    url = operator.url_for(subject, add_login(operator, subject, "subject"))
    clinicians = operator.url_for(login, add_login(operator, login, "clinician"))
    entrust(operator, login, subject)
    person = SharingPerson(tmp_path / "timeline.db", clinic, subject, url)
    person.share()
    person.live()
    person.send()
    found = next(one for one in subjects(operator) if one.name == subject)
    assert found == Subject(subject, found.added_at, found.seen_at, (login,))
    assert found.seen_at is not None
    anew = operator.url_for(subject, renew_password(operator, subject))
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)
    with session(anew) as connection, session(clinicians) as clinician:
        rows = sum(len(rows) for rows in person.there().values())
        assert remove_subject(operator, subject) == rows
        assert not any(person.there().values())
        # Who is still connected reads and writes nothing any more.
        with contextlib.suppress(psycopg.Error):
            assert connection.execute("SELECT * FROM emosllm.segment").fetchall() == []
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT * FROM emosllm.begin_sending()")
        with pytest.raises(REFUSED):
            clinician.execute(f"SELECT * FROM emosllm.read_coverage(%s, {EVER})", (subject,))
    whats = [one.what for one in audit(operator, subject, 100)]
    assert whats == ["added subject", "entrusted", "renewed password", "removed subject"]
    with pytest.raises(ClinicError, match="no subject of that name"):
        remove_subject(operator, subject)
    person.close()


@pytest.mark.parametrize("wrong", ["Anna", "1anna", "an na", "pg_anna", "emosllm_owner", "a'; DROP TABLE x", "a" * 41, ""])
def test_names_that_would_be_dangerous_or_unclear_are_refused(cast: Cast, wrong: str) -> None:
    with pytest.raises(ClinicError, match="no login can be called that"):
        add_login(of(cast.operator), wrong, "subject")


def test_names_that_are_taken_are_refused(cast: Cast) -> None:
    for taken in (cast.anna, "root"):
        with pytest.raises(ClinicError, match="already exists"):
            add_login(of(cast.operator), taken, "clinician")


# setting up -------------------------------------------------------------------------------------------------------


def test_setting_up_again_changes_nothing_and_needs_an_administrator(clinic: Clinic, cast: Cast) -> None:
    tables = "SELECT relname, relacl::text FROM pg_class WHERE relnamespace = 'emosllm'::regnamespace ORDER BY 1"
    before = clinic.rows(tables)
    assert set_up_clinic(clinic.administrator) == set_up_clinic(clinic.administrator) == "0004"
    assert clinic.rows(tables) == before
    with pytest.raises(ClinicError):
        set_up_clinic(of(cast.operator))
    assert clinic.rows(tables) == before


def test_an_administrator_who_is_no_superuser_is_enough(postgres_server: Postgres) -> None:
    with postgres_server.superuser("postgres") as connection:
        connection.execute("CREATE ROLE keeper LOGIN CREATEROLE PASSWORD 'keeper-secret'")
        connection.execute("CREATE DATABASE kept OWNER keeper")
        # The roles are there already, made by a superuser.
        connection.execute("GRANT emosllm_owner TO keeper")
    keeper = of(postgres_server.url("keeper", "keeper-secret", "kept"))
    assert set_up_clinic(keeper) == "0004"
    operator = name("op")
    url = keeper.url_for(operator, add_login(keeper, operator, "operator"))
    subject = name()
    add_login(of(url), subject, "subject")
    assert [one.name for one in subjects(of(url))] == [subject]


def test_a_database_that_is_not_set_up_says_so(postgres_server: Postgres) -> None:
    with pytest.raises(ClinicError, match=r"not set up.*clinic setup"):
        subjects(of(postgres_server.url("root", "root-secret", "postgres")))


def secured(clinic: Clinic, **options: object) -> str:
    """The administrator's URL, which asks for proof."""
    told = "&".join(f"{key}={value}" for key, value in options.items())
    return f"{clinic.server.url('root', 'root-secret', clinic.database)}?sslmode=verify-full{'&' if told else ''}{told}"


def test_a_server_that_proves_who_it_is_is_talked_to_in_private(clinic: Clinic) -> None:
    with clinic_connection(ClinicAddress.parse(secured(clinic, sslrootcert=clinic.server.ca_file), "the URL")) as connection:
        row = connection.execute("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
    assert row is not None
    assert row["ssl"]
    assert row["version"].startswith("TLSv1.")


def test_a_public_authority_is_one_that_this_machine_trusts(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    address = ClinicAddress.parse(secured(clinic), "the URL")
    with (
        pytest.raises(ClinicError, match=r"could not prove its identity: .*certificate verify failed.*sslrootcert=FILE"),
        clinic_connection(address),
    ):
        pass
    monkeypatch.setenv("SSL_CERT_FILE", str(clinic.server.ca_file))
    with clinic_connection(address) as connection:
        assert connection.execute("SELECT 1").fetchone()


def test_nobody_else_is_told_a_password(clinic: Clinic, tmp_path: Path) -> None:
    other, _ = make_certificate(tmp_path)
    nowhere = tmp_path / "none.pem"
    before = len(clinic.server.log)
    for url, says in (
        (secured(clinic, sslrootcert=other), "certificate verify failed"),
        (secured(clinic, sslrootcert=nowhere), "root certificate file"),
        (secured(clinic, sslrootcert=clinic.server.ca_file).replace("127.0.0.1", "localhost"), "does not match host name"),
    ):
        refused = run("clinic", "subjects", environment={"EMOSLLM_STORE_URL": url})
        assert refused.returncode != 0
        assert "could not prove its identity" in refused.stderr
        assert says in refused.stderr
        assert "root-secret" not in refused.stderr + refused.stdout
    assert "password authentication" not in clinic.server.log[before:]


def test_who_is_added_gets_a_url_that_asks_for_the_same_proof(clinic: Clinic) -> None:
    mine = {"EMOSLLM_STORE_URL": secured(clinic, sslrootcert=clinic.server.ca_file)}
    url = run("clinic", "add-subject", name("subject"), environment=mine).stdout.strip()
    assert ClinicAddress.parse(url, "it").options == {"sslmode": "verify-full", "sslrootcert": str(clinic.server.ca_file)}
    with clinic_connection(ClinicAddress.parse(url, "it")) as connection:
        assert connection.execute("SELECT current_user").fetchone()
