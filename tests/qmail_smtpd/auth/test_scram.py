"""SCRAM-SHA-256 with scramp's own client: proofs, invented salts, malformed messages, errors."""

import base64
import hashlib
import hmac
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramClient

from qmail_smtpd.auth import scram
from qmail_smtpd.auth.scram import Malformed, OtherAuthzid, Scram, WrongProof
from qmail_smtpd.auth.secret import make, matches
from qmail_smtpd.auth.users import CannotVerify
from qmail_smtpd.auth.verifier import Verifier
from tests.kit.support import peer

WriteUsers = Callable[[bytes], bytes]
SALT = b"salt" * 4
STORED = b"{SCRAM-SHA-256}" + Verifier.from_password(b"secret", SALT, 5000).value()
USERS = b"joe:%b\nplain:{PLAIN}secret\nbcrypt:%b\nempty:\nodd=name,here:%b\nj\xc3\xb6:%b\nbroken:{SCRAM-SHA-256}x\n" % (
    STORED,
    make(b"BLF-CRYPT", b"secret", 4),
    STORED,
    STORED,
)


@pytest.fixture
def write_users(tmp_path: Path) -> WriteUsers:
    def write(content: bytes) -> bytes:
        path = tmp_path / "users"
        path.write_bytes(content)
        path.chmod(0o640)
        return bytes(path)

    return write


@pytest.fixture
def path(write_users: WriteUsers) -> bytes:
    return write_users(USERS)


def login(path: bytes, user: str, password: str) -> Scram:
    """Run a whole exchange, including the client's check of the server's proof."""
    client, server = ScramClient(["SCRAM-SHA-256"], user, password), Scram(path)
    client.set_server_first(server.step(client.get_client_first().encode()).decode())
    assert not server.done
    client.set_server_final(server.step(client.get_client_final().encode()).decode())
    return server


def challenge_for(path: bytes, user: str) -> tuple[bytes, int]:
    """Return salt and iterations from the server's first message to a user."""
    reply = Scram(path).step(f"n,,n={user},r=abc".encode()).decode()
    fields = dict(field.split("=", 1) for field in reply.split(","))
    assert list(fields) == ["r", "s", "i"]
    assert fields["r"].startswith("abc")
    assert len(fields["r"]) >= 3 + 32
    return base64.b64decode(fields["s"]), int(fields["i"])


@pytest.mark.parametrize("user", ["joe", "plain", "odd=name,here", "jö"])
def test_the_right_password_is_proved_by_both_sides(path: bytes, user: str) -> None:
    server = login(path, user, "secret")
    assert server.done
    assert server.user == user.encode()


@pytest.mark.parametrize("user", ["joe", "plain", "odd=name,here"])
@pytest.mark.parametrize("password", ["Secret", "secret ", "x"])
def test_a_wrong_password_fails_at_the_proof(path: bytes, user: str, password: str) -> None:
    with pytest.raises(WrongProof):
        login(path, user, password)


@pytest.mark.parametrize("user", ["nobody", "bcrypt", "empty", "Joe", "JOE", "jo"])
@pytest.mark.parametrize("password", ["secret", "-", "x"])
def test_a_user_who_is_unknown_or_cannot_use_scram_fails_at_the_proof(path: bytes, user: str, password: str) -> None:
    with pytest.raises(WrongProof):
        login(path, user, password)


def test_the_example_of_rfc_7677(write_users: WriteUsers) -> None:
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    path = write_users(b"user:{SCRAM-SHA-256}%b\n" % Verifier.from_password(b"pencil", salt, 4096).value())
    server = Scram(path, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
    nonce = b"rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    reply = server.step(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    assert reply == b"r=%b,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096" % nonce
    proof = server.step(b"c=biws,r=%b,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=" % nonce)
    assert proof == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert (server.done, server.user) == (True, b"user")


@pytest.mark.peer
def test_a_user_made_by_dovecot_can_log_in(write_users: WriteUsers) -> None:
    words = [peer("/usr/bin/doveadm"), "pw", "-s", "SCRAM-SHA-256", "-p", "secret"]
    stored = subprocess.run(words, capture_output=True, check=True).stdout.strip()
    assert login(write_users(b"joe:" + stored), "joe", "secret").done


@pytest.mark.peer
def test_dovecot_does_not_normalize_a_password_and_a_scram_client_does(write_users: WriteUsers) -> None:
    words = [peer("/usr/bin/doveadm"), "pw", "-s", "SCRAM-SHA-256", "-p", "ﬁne"]
    stored = subprocess.run(words, capture_output=True, check=True).stdout.strip()
    with pytest.raises(WrongProof):
        login(write_users(b"joe:" + stored), "joe", "ﬁne")
    assert matches(stored, "ﬁne".encode())  # PLAIN and LOGIN
    assert not matches(stored, b"fine")


def test_a_password_is_normalized_on_both_sides(write_users: WriteUsers) -> None:
    path = write_users(b"joe:%b\nplain:{PLAIN}\xef\xac\x81ne\n" % make(b"SCRAM-SHA-256", "ﬁne".encode(), 4096))
    for user in ("joe", "plain"):
        assert login(path, user, "ﬁne").done
        assert login(path, user, "fine").done


def test_a_nonce_is_never_used_twice(path: bytes) -> None:
    answers = {Scram(path).step(b"n,,n=joe,r=abc") for _ in range(20)}
    assert len(answers) == 20


def test_the_invented_salt_of_a_name_is_always_the_same(path: bytes) -> None:
    code = (
        "import os, sys; from qmail_smtpd.auth.scram import Scram;"
        "print(Scram(os.fsencode(sys.argv[1])).step(b'n,,n=nobody,r=abc').decode().partition(',')[2])"
    )
    done = subprocess.run([sys.executable, "-c", code, os.fsdecode(path)], capture_output=True, check=True)
    salt, iterations = challenge_for(path, "nobody")
    assert done.stdout.decode() == f"s={base64.b64encode(salt).decode()},i={iterations}\n"
    assert challenge_for(path, "nobody") == (salt, iterations)
    assert challenge_for(path, "somebody")[0] != salt


def test_invented_salts_do_not_depend_on_other_users(write_users: WriteUsers) -> None:
    before = challenge_for(write_users(USERS), "nobody")
    after = challenge_for(write_users(USERS.replace(b"secret", b"changed") + b"ann:{PLAIN}x\n"), "nobody")
    assert before == after


def test_an_invented_challenge_looks_like_the_others(path: bytes) -> None:
    known = challenge_for(path, "joe")
    assert known == (SALT, 5000)
    for user in ("nobody", "bcrypt", "empty", "plain"):
        salt, iterations = challenge_for(path, user)
        assert (len(salt), iterations) == (len(SALT), 5000)
        assert salt != SALT


def test_without_other_users_an_invented_challenge_looks_like_that_of_a_new_user(write_users: WriteUsers) -> None:
    made = Verifier.from_value(make(b"SCRAM-SHA-256", b"x").removeprefix(b"{SCRAM-SHA-256}"))
    salt, iterations = challenge_for(write_users(b""), "nobody")
    assert (len(salt), iterations) == (len(made.salt), made.iterations)


def test_invented_salts_do_not_depend_on_passwords(write_users: WriteUsers) -> None:
    """Otherwise they would allow guessing the passwords offline, which SCRAM's own messages do not."""
    assert challenge_for(write_users(b"joe:{PLAIN}a\n"), "nobody") == challenge_for(
        write_users(b"joe:{PLAIN}b\n"), "nobody"
    )


def test_without_a_machine_id_the_boot_id_is_the_key(
    tmp_path: Path, path: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_machine = challenge_for(path, "nobody")
    empty, boot, none = tmp_path / "empty", tmp_path / "boot", tmp_path / "none"
    empty.write_text("\n")
    boot.write_text("0a1b2c3d-4e5f-4a1b-8c2d-1a2b3c4d5e6f\n")
    salts = []
    for machine in (empty, none):
        monkeypatch.setattr(scram, "HOST_ID_FILES", (bytes(machine), bytes(boot)))
        salts.append(challenge_for(path, "nobody"))
    assert salts[0] == salts[1] != with_machine
    key = b"0a1b2c3d4e5f4a1b8c2d1a2b3c4d5e6f"
    assert salts[0][0] == hmac.digest(key, b"ucspi-smtpd SCRAM salt\0nobody", "sha256")[:16]
    monkeypatch.setattr(scram, "HOST_ID_FILES", (bytes(none), bytes(empty)))
    with pytest.raises(CannotVerify, match="machine-id"):
        challenge_for(path, "nobody")
    assert challenge_for(path, "joe") == (SALT, 5000)


@pytest.fixture
def hashes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The iterations of each PBKDF2 that is computed."""
    original, counts = hashlib.pbkdf2_hmac, []

    def counted(name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
        counts.append(iterations)
        return original(name, password, salt, iterations)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counted)
    return counts


@pytest.mark.parametrize("user", ["joe", "plain", "nobody", "bcrypt"])
@pytest.mark.parametrize("proof", ["", "AAAA"])
def test_a_wrong_proof_takes_the_same_work_for_every_user(
    path: bytes, user: str, proof: str, hashes: list[int]
) -> None:
    client, server = ScramClient(["SCRAM-SHA-256"], user, "wrong"), Scram(path)
    reply = server.step(client.get_client_first().encode()).decode()
    assert hashes == []
    client.set_server_first(reply)
    final = client.get_client_final()
    hashes.clear()
    with pytest.raises(WrongProof):
        server.step((final.partition(",p=")[0] + ",p=" + proof if proof else final).encode())
    assert hashes == [5000]


FIRST_MESSAGES = [
    b"",
    b"n",
    b"n,,",
    b"n,,n=joe",
    b"n,,r=abc",
    b"n,,n=,r=abc",
    b"n,,n=joe,r=",
    b"n,,r=abc,n=joe",
    b"n,,n=joe,n=ann,r=abc",
    b"n,,m=x,n=joe,r=abc",
    b"n,,n=j=oe,r=abc",
    b"n,,n=joe\0,r=abc",
    b"n,,n=j\x01oe,r=abc",
    b"n,,n=joe,r=a\x01c",
    b"n,,n=\xff,r=abc",
    b"x,,n=joe,r=abc",
    b"N,,n=joe,r=abc",
    b"n,a=,n=joe,r=abc",
    b"n,joe,n=joe,r=abc",
    b"n,a=joe,r=abc,n=joe",
    b"n,a=joe,a=joe,n=joe,r=abc",
    b"n,a=j=oe,n=j=oe,r=abc",
    b"p=tls-unique,,n=joe,r=abc",
    b"p=tls-server-end-point,,n=joe,r=abc",
    b"p=tls-exporter,,n=joe,r=abc",
    b"p,,n=joe,r=abc",
]


@pytest.mark.parametrize("message", FIRST_MESSAGES)
def test_an_invalid_first_message_is_malformed(path: bytes, message: bytes) -> None:
    server = Scram(path)
    with pytest.raises(Malformed):
        server.step(message)
    assert not server.done


def log_in_as(path: bytes, user: str, authzid: str, flag: str = "n") -> Scram:
    """Run an exchange in which the client names an authzid, as clients with libgsasl do."""
    header = f"{flag},a={authzid},"
    client, server = ScramClient(["SCRAM-SHA-256"], user, "secret"), Scram(path)
    client.get_client_first()
    client.gs2_header = SimpleNamespace(make_cbind_input=lambda _: header.encode())
    client.set_server_first(server.step((header + client.client_first_bare).encode()).decode())
    client.set_server_final(server.step(client.get_client_final().encode()).decode())
    return server


@pytest.mark.parametrize("flag", ["n", "y"])
@pytest.mark.parametrize("user", ["joe", "plain", "odd=name,here", "jö"])
def test_a_client_may_name_the_user_as_its_authzid(path: bytes, user: str, flag: str) -> None:
    server = log_in_as(path, user, user.replace("=", "=3D").replace(",", "=2C"), flag)
    assert (server.done, server.user) == (True, user.encode())


@pytest.mark.parametrize("authzid", ["ann", "plain", "Joe", "JOE", "joe ", "jo"])
@pytest.mark.parametrize("user", ["joe", "nobody", "a,b=c"])
def test_a_user_may_not_act_as_another(path: bytes, user: str, authzid: str) -> None:
    """Whether the user exists makes no difference."""
    server = Scram(path)
    name = user.replace("=", "=3D").replace(",", "=2C")
    with pytest.raises(OtherAuthzid):
        server.step(f"n,a={authzid},n={name},r=abc".encode())
    assert (server.user, server.done) == (user.encode(), False)


@pytest.mark.parametrize("header", ["n,,", "y,a=joe,", "n,a=ann,"])
def test_the_proof_covers_the_authzid(path: bytes, header: str) -> None:
    client, server = ScramClient(["SCRAM-SHA-256"], "joe", "secret"), Scram(path)
    client.get_client_first()
    client.gs2_header = SimpleNamespace(make_cbind_input=lambda _: header.encode())
    client.set_server_first(server.step(("n,a=joe," + client.client_first_bare).encode()).decode())
    with pytest.raises(Malformed):
        server.step(client.get_client_final().encode())


def test_a_client_that_supports_channel_binding_can_log_in(path: bytes) -> None:
    """RFC 5802 section 6: `y` means that the client supports it and thinks that the server does not, which is right."""
    client, server = ScramClient(["SCRAM-SHA-256"], "joe", "secret", channel_binding=("tls-unique", b"x")), Scram(path)
    message = client.get_client_first()
    assert message.startswith("y,,")
    client.set_server_first(server.step(message.encode()).decode())
    client.set_server_final(server.step(client.get_client_final().encode()).decode())
    assert server.done


def test_a_changed_channel_binding_flag_is_detected(path: bytes) -> None:
    client, server = ScramClient(["SCRAM-SHA-256"], "joe", "secret", channel_binding=("tls-unique", b"x")), Scram(path)
    client.set_server_first(server.step(client.get_client_first().replace("y", "n", 1).encode()).decode())
    with pytest.raises(Malformed):
        server.step(client.get_client_final().encode())


FINAL_MESSAGES = [  # {c}, {r}: the right fields; {p}: the right proof
    "",
    "{r}",
    "{c},{r}",
    "{c},{p}",
    "{r},{c},{p}",
    "{c},{r},{p},{p}",
    "{c},{r},x=1,{p},y=2",
    "{c},{r}x,{p}",
    "{c},r=abc,{p}",
    "c=biwt,{r},{p}",
    "c=!,{r},{p}",
    "{c},{r},p=!",
    "{c},{r},p=",
    "n,,n=joe,r=abc",
]


def start_exchange(path: bytes, user: str = "joe") -> tuple[Scram, str]:
    """Return a server that waits for the final message, and the right final message."""
    client, server = ScramClient(["SCRAM-SHA-256"], user, "secret"), Scram(path)
    client.set_server_first(server.step(client.get_client_first().encode()).decode())
    return server, client.get_client_final()


@pytest.mark.parametrize("user", ["joe", "plain", "nobody", "bcrypt"])
@pytest.mark.parametrize("text", FINAL_MESSAGES)
def test_an_invalid_final_message_is_malformed_and_costs_no_hash(
    path: bytes, user: str, text: str, hashes: list[int]
) -> None:
    server, final = start_exchange(path, user)
    c, r, p = final.split(",")
    hashes.clear()
    with pytest.raises(Malformed):
        server.step(text.format(c=c, r=r, p=p).encode())
    assert not server.done
    assert hashes == []


@pytest.mark.parametrize("proof", ["AAAA", "A" * 43 + "=", "A" * 60])
def test_a_wrong_proof_of_any_length_is_wrong(path: bytes, proof: str) -> None:
    server, final = start_exchange(path)
    with pytest.raises(WrongProof):
        server.step((final.partition(",p=")[0] + ",p=" + proof).encode())
    assert not server.done


def test_a_final_message_of_another_exchange_is_malformed(path: bytes) -> None:
    _, final = start_exchange(path)
    server, _ = start_exchange(path)
    with pytest.raises(Malformed):
        server.step(final.encode())


def test_no_message_is_accepted_after_the_end(path: bytes) -> None:
    for final_is_right in (True, False):
        server, final = start_exchange(path)
        if final_is_right:
            server.step(final.encode())
        else:
            with pytest.raises(Malformed):
                server.step(b"c=biws")
        for message in (final.encode(), b"n,,n=joe,r=abc"):
            with pytest.raises(Malformed):
                server.step(message)
        assert server.done == final_is_right


@pytest.mark.parametrize("message", [b"", b"\xff", b"n,,n=broken,r=abc"])
def test_no_message_is_accepted_after_a_failure(path: bytes, message: bytes) -> None:
    server = Scram(path)
    with pytest.raises((Malformed, CannotVerify)):
        server.step(message)
    with pytest.raises(Malformed):
        server.step(b"n,,n=joe,r=abc")


def test_an_unusable_users_file_is_an_error(path: bytes, write_users: WriteUsers) -> None:
    with pytest.raises(CannotVerify, match="line 7"):
        challenge_for(path, "broken")
    short = write_users(b"joe:{SCRAM-SHA-256}" + Verifier.from_password(b"secret", b"salt", 4096).value())
    with pytest.raises(CannotVerify, match="salt of less than 12 bytes"):
        challenge_for(short, "joe")
    os.chmod(path, 0o644)
    with pytest.raises(CannotVerify, match="world-readable"):
        challenge_for(path, "joe")
    os.unlink(path)
    with pytest.raises(CannotVerify, match="file does not exist"):
        challenge_for(path, "nobody")


def test_a_missing_package_is_an_error_that_names_it(path: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scramp", None)
    with pytest.raises(CannotVerify, match="scramp"):
        Scram(path).step(b"n,,n=joe,r=abc")


TEXTS = st.one_of(st.binary(max_size=60), st.text(alphabet="npycr=,abAB/+01\0 ", max_size=40).map(str.encode))


@pytest.fixture(scope="module")
def module_users(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("scram") / "users"
    path.write_bytes(USERS)
    path.chmod(0o640)
    return bytes(path)


@given(TEXTS, TEXTS)
def test_the_server_survives_any_two_messages(module_users: bytes, opening: bytes, closing: bytes) -> None:
    server = Scram(module_users)
    try:
        server.step(opening)
    except (Malformed, OtherAuthzid, CannotVerify):
        pass
    try:
        server.step(closing)
    except (Malformed, WrongProof, CannotVerify):
        pass
    assert not server.done


@given(TEXTS)
def test_the_server_survives_any_final_message(module_users: bytes, closing: bytes) -> None:
    server, _ = start_exchange(module_users)
    with pytest.raises((Malformed, WrongProof)):
        server.step(closing)
    assert not server.done
