"""control/authfaillimit: failed logins of an address over sessions; what counts, and what happens without the store."""

import base64
import fcntl
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from qmail_smtpd.relay import countfiles
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.meter import FRESH, LOGINS_UNCHECKED, Meter
from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.offer import Offer
from tests.kit.echo import Echo, converse
from tests.kit.mailhome import Result, talk
from tests.kit.support import script
from tests.qmail_smtpd.relay.test_limited_sessions import Site, codes

RIGHT, WRONG = b"\0joe\0secret", b"\0joe\0wrong"
BLOCKED = b"421 too many failed logins (#4.7.0)\r\n"


class Host(Site):
    """A site with a limit for failed logins, and a checker that records each run."""

    def __init__(self, path: Path, limit: str, **control: object) -> None:
        super().__init__(path, "", authfaillimit=limit, **control)
        (self.home / "control/relaylimits").unlink()
        self.runs = path / "runs"
        self.checker = path / "checker"
        self.checker.write_text(
            f"#!/bin/sh\necho run >>{self.runs}\ntr '\\0' ' ' <&3 | grep -q '^[a-z]* secret ' && exec \"$@\"\nexit 1\n"
        )
        self.checker.chmod(0o755)
        self.environ = {b"TCPREMOTEIP": b"192.0.2.1", b"RELAY_DIR": bytes(self.store), b"QMAILHOME": bytes(self.home)}

    def log_in(self, *responses: bytes, ip: str = "192.0.2.1", **variables: str) -> Result:
        env = {"TCPREMOTEIP": ip, "SMTPAUTH": "", "AUTHSLEEP": "0", **variables}
        lines = [f"AUTH PLAIN {base64.b64encode(response).decode()}\r\n" for response in responses]
        words = () if "SMTPAUTHFILE" in variables else (str(self.checker), "true")
        return talk(self.home, "EHLO x\r\n" + "".join(lines) + "QUIT\r\n", env, words=words)

    def checks(self) -> int:
        return len(self.runs.read_text().splitlines()) if self.runs.exists() else 0


@pytest.fixture
def host(tmp_path: Path) -> Callable[..., Host]:
    return lambda limit="3/3600", **control: Host(tmp_path, limit, **control)


def test_over_the_limit_auth_gets_421_with_one_line_and_runs_no_checker(host: Callable[..., Host]) -> None:
    site = host()
    assert codes(site.log_in(WRONG, WRONG)) == "220 250 535 535 221"
    done = site.log_in(WRONG, RIGHT)
    assert codes(done) == "220 250 535 421"
    assert done.stdout.endswith(BLOCKED)
    assert site.checks() == 3
    done = site.log_in(RIGHT)
    assert codes(done) == "220 250 421"
    lines = [line for line in done.stderr.splitlines() if b"event=" in line]
    assert len(lines) == 1
    assert lines[0].endswith(b" reason=authfaillimit who=192.0.2.1 limit=3/3600")
    assert site.checks() == 3
    assert codes(site.log_in(RIGHT, ip="192.0.2.2")) == "220 250 235 221"
    assert site.relay_list("--reset", "192.0.2.1").exit == 0
    assert codes(site.log_in(RIGHT)) == "220 250 235 221"


def test_right_logins_in_between_do_not_reset_the_count(host: Callable[..., Host]) -> None:
    site = host()
    for _ in range(3):
        assert codes(site.log_in(b"\0ann\0secret")) == "220 250 235 221"
        assert codes(site.log_in(WRONG)) == "220 250 535 221"
    assert codes(site.log_in(b"\0ann\0secret")) == "220 250 421"


def test_an_ipv6_address_counts_with_its_64(host: Callable[..., Host]) -> None:
    site = host("1/3600")
    assert codes(site.log_in(WRONG, ip="2001:db8::1")) == "220 250 535 221"
    assert codes(site.log_in(RIGHT, ip="2001:db8::ffff")) == "220 250 421"
    assert codes(site.log_in(RIGHT, ip="2001:db8:0:1::1")) == "220 250 235 221"


def test_proxies_are_not_counted(host: Callable[..., Host]) -> None:
    site = host("1/3600", relayproxies="192.0.2.0/24\n")
    assert codes(site.log_in(WRONG, WRONG)) == "220 250 535 535 221"
    assert codes(site.log_in(WRONG, RIGHT, ip="127.0.0.1")) == "220 250 535 421"  # a value replaces the default


def test_what_is_not_a_wrong_password_does_not_count(host: Callable[..., Host]) -> None:
    site = host("1/3600")
    site.checker.write_text("#!/bin/sh\nexit 111\n")
    assert codes(site.log_in(RIGHT, b"no", RIGHT)) == "220 250 454 501 454 221"


def test_a_scheme_that_the_mechanism_cannot_use_counts_ten_times_less(host: Callable[..., Host]) -> None:
    site = host("1/3600", maxauth="0\n")
    site.checker.write_text("#!/bin/sh\nexit 79\n")
    assert codes(site.log_in(*[WRONG] * 11)) == "220 250 " + "535 " * 10 + "421"


def test_the_users_file_and_scram_are_guarded_too(host: Callable[..., Host]) -> None:
    site = host("1/3600")
    assert codes(site.log_in(WRONG, SMTPAUTHFILE=str(site.users))) == "220 250 535 221"
    first = base64.b64encode(b"n,,n=joe,r=abc").decode()
    env = {"TCPREMOTEIP": "192.0.2.1", "SMTPAUTHFILE": str(site.users), "AUTHSLEEP": "0"}
    assert codes(talk(site.home, f"EHLO x\r\nAUTH SCRAM-SHA-256 {first}\r\n", env)) == "220 250 421"


def test_a_client_that_waits_with_its_password_is_asked_about_again(host: Callable[..., Host]) -> None:
    """Otherwise many sessions could begin before the limit is reached, and try one password each after it."""
    site = host("1/3600")
    first, second = (Meter(site.environ, None, (1, 3600), print) for _ in range(2))
    assert first.attempt_refusal() is None
    second.count_failure(b"password")
    assert first.attempt_refusal() is None
    first.checked -= FRESH
    refusal = first.attempt_refusal()
    assert refusal
    assert refusal[0] == replies.TOO_MANY_LOGINS


def test_each_line_of_an_exchange_asks_about_the_client() -> None:
    echo = Echo()
    refusal = replies.TOO_MANY_LOGINS, {b"reason": b"authfaillimit"}

    class Patient(list[tuple[bytes, dict[bytes, bytes]]]):
        asked = 0

        def __bool__(self) -> bool:
            self.asked += 1
            return self.asked == 3

    echo.attempt_refusals = Patient([refusal])
    offer = Offer((b"LOGIN",))
    converse(b"AUTH LOGIN\r\nam9l\r\nc2VjcmV0\r\n", 0, echo, auth=offer, logins_limited=True)
    assert echo.credentials == []
    assert echo.replies[-1] == replies.TOO_MANY_LOGINS


@pytest.mark.parametrize(
    ("limit", "warning"),
    [
        ("10\n", b"control/authfaillimit a limit is two whole numbers, such as 300/3600: no logins\n"),
        ("0/60\n", b"control/authfaillimit the first number must be at least 1: no logins\n"),
        ("\n", b"control/authfaillimit a limit is two whole numbers, such as 300/3600: no logins\n"),
        ({"dir": True}, b"unable to read control/authfaillimit: is a directory: no logins\n"),
    ],
)
def test_a_limit_that_cannot_be_read_allows_no_login(host: Callable[..., Host], limit: object, warning: bytes) -> None:
    site = host(limit)
    done = site.log_in(RIGHT)
    assert codes(done) == "220 250 454 221"
    assert b"454 unable to check for failed logins (#4.3.0)\r\n" in done.stdout
    assert done.stderr.count(b"qmail-smtpd: warning: " + warning) == 1
    assert site.checks() == 0


def test_a_store_that_fails_allows_no_login_with_one_line(host: Callable[..., Host]) -> None:
    site = host()
    (site.store / "counts").rmdir()
    done = site.log_in(RIGHT, RIGHT, RIGHT, RIGHT)
    assert codes(done) == "220 250 454 454 454 421"  # maxauth
    why = b"warning: no logins: unable to read %b: file does not exist\n" % bytes(site.store / "counts")
    assert done.stderr.count(why) == 1
    assert site.checks() == 0


def test_a_store_that_cannot_count_allows_no_login_although_it_can_be_read(host: Callable[..., Host]) -> None:
    """As on a full disk, with a limit on the size of files: the file of the counter can be made, and not written."""
    site = host()
    response = base64.b64encode(WRONG).decode()
    text = f"EHLO x\r\nAUTH PLAIN {response}\r\nAUTH PLAIN {response}\r\nQUIT\r\n".encode()
    words = ["prlimit", "--fsize=100", script("qmail-smtpd"), str(site.checker), "true"]
    environ = {**os.environ, "QMAILHOME": str(site.home), "TCPREMOTEIP": "192.0.2.1", "SMTPAUTH": "", "AUTHSLEEP": "0"}
    for _ in range(2):
        done = subprocess.run(words, input=text, env=environ, capture_output=True, check=False)
        assert [line[:3] for line in done.stdout.splitlines() if line[3:4] == b" "] == [
            b"220", b"250", b"454", b"454", b"221"
        ]  # fmt: skip
        assert (
            done.stderr.count(b"warning: no logins: unable to write %b/counts/failed=192.0.2.1" % bytes(site.store))
            == 1
        )
        assert done.stderr.count(b" reason=relaystore\n") == 2
    assert site.checks() == 0
    assert codes(site.log_in(WRONG, RIGHT)) == "220 250 535 235 221"


def test_a_lock_that_another_process_holds_allows_no_login_of_its_address_until_it_is_free(
    host: Callable[..., Host],
) -> None:
    site = host()
    with open(site.store / "counts/failed=192.0.2.1", "wb") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert codes(site.log_in(RIGHT)) == "220 250 454 221"
        assert codes(site.log_in(RIGHT, ip="192.0.2.2")) == "220 250 235 221"
    assert codes(site.log_in(RIGHT)) == "220 250 235 221"


def test_after_a_failure_that_could_not_be_counted_its_session_may_try_no_other_login(
    host: Callable[..., Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    site, logged = host(), []
    session = Meter(site.environ, None, (3, 3600), logged.append)
    assert session.attempt_refusal() is None

    def fails(*_: object) -> None:
        raise StoreError(b"unable to write")

    with monkeypatch.context() as patch:
        patch.setattr(countfiles.Counter, "write", fails)
        session.count_failure(b"password")
        assert session.attempt_refusal() == LOGINS_UNCHECKED
        assert Meter(site.environ, None, (3, 3600), logged.append).attempt_refusal() == LOGINS_UNCHECKED
    assert logged == [b"a failed login is not counted: unable to write", b"no logins: unable to write"]
    assert session.attempt_refusal() == LOGINS_UNCHECKED
    assert Meter(site.environ, None, (3, 3600), logged.append).attempt_refusal() is None


def test_relay_list_shows_failed_logins(host: Callable[..., Host]) -> None:
    site = host()
    site.log_in(WRONG, WRONG)
    assert site.rows() == [{"kind": "failed", "who": "192.0.2.1", "used": 2, "limit": 3, "seconds": 3600}]


def test_unknown_recipients_of_an_address_count_over_sessions(host: Callable[..., Host]) -> None:
    site = host("20/3600", brtlimit="2\n", validrcptto="joe@example.com\n")
    session = "MAIL FROM:<s@s.test>\r\nRCPT TO:<no@example.com>\r\nRCPT TO:<joe@example.com>\r\nQUIT\r\n"

    def ask(ip: str) -> str:
        return codes(talk(site.home, session, {"TCPREMOTEIP": ip}))

    assert ask("192.0.2.1") == "220 250 550 250 221"
    assert ask("192.0.2.2") == "220 250 550 250 221"
    assert ask("192.0.2.1") == "220 250 550 421"
    assert ask("192.0.2.1") == "220 250 421"
    assert ask("127.0.0.1") == ask("127.0.0.1") == ask("127.0.0.1") == "220 250 550 250 221"


@pytest.mark.parametrize("trouble", ["missing", "locked", "limit"])
def test_a_session_whose_unknown_recipient_cannot_be_counted_ends_at_its_next_rcpt(
    host: Callable[..., Host], trouble: str
) -> None:
    site = host("20\n" if trouble == "limit" else "20/3600", brtlimit="9\n", validrcptto="joe@example.com\n")
    joe, unknown = "RCPT TO:<joe@example.com>\r\n", "RCPT TO:<no@example.com>\r\n"

    def ask(*recipients: str) -> str:
        return codes(talk(site.home, "MAIL FROM:<s@s.test>\r\n" + "".join(recipients), {"TCPREMOTEIP": "192.0.2.1"}))

    with open(site.store / "counts/unknown=192.0.2.1", "wb") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        if trouble == "missing":
            (site.store / "counts").rename(site.store / "elsewhere")
        assert ask(joe, unknown, joe) == "220 250 250 550 421"
        assert ask(joe, joe) == "220 250 250 250"  # mail is still accepted
    if trouble == "missing":
        (site.store / "elsewhere").rename(site.store / "counts")
    (site.home / "control/authfaillimit").write_text("20/3600\n")
    assert ask(joe, unknown, joe) == "220 250 250 550 250"
