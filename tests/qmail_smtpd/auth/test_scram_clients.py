"""SCRAM-SHA-256 with the libraries that most mail clients use: libgsasl and Cyrus SASL."""

from collections.abc import Callable
from pathlib import Path

import pytest

from qmail_smtpd.auth.scram import OtherAuthzid, Scram, WrongProof
from qmail_smtpd.auth.secret import make
from tests.kit.peers.saslclients import Client, ClientFailed, cyrus, gsasl

pytestmark = pytest.mark.peer
CYRUS_LIMIT = 65_536  # iterations: libsasl2 2.1.28, plugins/scram.c

EACH = pytest.mark.parametrize("make_client", [gsasl, cyrus])
MakeClient = Callable[[str, str, str], Client]


def users_file(folder: Path, stored: bytes) -> bytes:
    path = folder / "users"
    path.write_bytes(b"joe:%b\nj=o,e:%b\n" % (stored, stored))
    path.chmod(0o640)
    return bytes(path)


def log_in(client: Client, path: bytes) -> Scram:
    """Run an exchange to its end, in which the client has checked the server's proof."""
    server = Scram(path)
    message = next(client)
    while not server.done:
        message = client.send(server.step(message))
    assert message == b""
    client.close()
    return server


@EACH
@pytest.mark.parametrize("scheme", [b"SCRAM-SHA-256", b"PLAIN"])
@pytest.mark.parametrize("user", ["joe", "j=o,e"])
@pytest.mark.parametrize("named", [True, False])
def test_a_new_password_works_with_and_without_an_authzid(
    make_client: MakeClient, scheme: bytes, user: str, named: bool, tmp_path: Path
) -> None:
    path = users_file(tmp_path, make(scheme, b"secret"))
    assert log_in(make_client(user, "secret", user if named else ""), path).user == user.encode()


@EACH
def test_a_wrong_password_fails(make_client: MakeClient, tmp_path: Path) -> None:
    path = users_file(tmp_path, make(b"SCRAM-SHA-256", b"secret"))
    with pytest.raises(WrongProof):
        log_in(make_client("joe", "wrong", "joe"), path)


@EACH
def test_another_authzid_is_refused(make_client: MakeClient, tmp_path: Path) -> None:
    path = users_file(tmp_path, make(b"SCRAM-SHA-256", b"secret"))
    with pytest.raises(OtherAuthzid):
        log_in(make_client("joe", "secret", "ann"), path)


def test_cyrus_sasl_gives_up_above_its_limit(tmp_path: Path) -> None:
    """The reason for the default of checkusers --set, and for the warning in docs/checkusers.md."""
    assert log_in(cyrus("joe", "secret", ""), users_file(tmp_path, make(b"SCRAM-SHA-256", b"secret", CYRUS_LIMIT))).done
    path = users_file(tmp_path, make(b"SCRAM-SHA-256", b"secret", CYRUS_LIMIT + 1))
    with pytest.raises(ClientFailed):
        log_in(cyrus("joe", "secret", ""), path)
    assert log_in(gsasl("joe", "secret", ""), path).done
