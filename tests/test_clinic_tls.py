"""The way to a clinic's database beyond this machine: encrypted, to a server that proves who it is, and no other hears a password."""

from pathlib import Path

import pytest

from model.errors import ClinicError
from monitor.clinic.address import Address
from monitor.clinic.connection import connected
from tests.certificates import make_certificate
from tests.commands import run
from tests.postgres import Clinic
from tests.sharing import name


def secured(clinic: Clinic, **options: object) -> str:
    """The administrator's URL, which asks for proof."""
    told = "&".join(f"{key}={value}" for key, value in options.items())
    return f"{clinic.server.url('root', 'root-secret', clinic.database)}?sslmode=verify-full{'&' if told else ''}{told}"


def test_a_server_that_proves_who_it_is_is_talked_to_in_private(clinic: Clinic) -> None:
    with connected(Address.parse(secured(clinic, sslrootcert=clinic.server.ca_file), "the URL")) as connection:
        row = connection.execute("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
    assert row is not None
    assert row["ssl"]
    assert row["version"].startswith("TLSv1.")


def test_a_public_authority_is_one_that_this_machine_trusts(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    address = Address.parse(secured(clinic), "the URL")
    with pytest.raises(ClinicError, match=r"does not prove who it is: .*certificate verify failed.*sslrootcert=FILE"), connected(address):
        pass
    monkeypatch.setenv("SSL_CERT_FILE", str(clinic.server.ca_file))
    with connected(address) as connection:
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
        assert "does not prove who it is" in refused.stderr
        assert says in refused.stderr
        assert "root-secret" not in refused.stderr + refused.stdout
    assert "password authentication" not in clinic.server.log[before:]


def test_who_is_added_gets_a_url_that_asks_for_the_same_proof(clinic: Clinic) -> None:
    mine = {"EMOSLLM_STORE_URL": secured(clinic, sslrootcert=clinic.server.ca_file)}
    url = run("clinic", "add-subject", name("subject"), environment=mine).stdout.strip()
    assert Address.parse(url, "it").options == {"sslmode": "verify-full", "sslrootcert": str(clinic.server.ca_file)}
    with connected(Address.parse(url, "it")) as connection:
        assert connection.execute("SELECT current_user").fetchone()
