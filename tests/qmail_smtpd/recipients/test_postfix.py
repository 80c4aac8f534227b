"""rcptcheck-postfix: callouts to a stand-in, with every answer and failure; to Postfix by SMTP, to Dovecot by LMTP."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmail_smtpd.recipients import callout, postfix
from tests.kit.mailhome import CONTROL, make_home
from tests.kit.peers.dovecotserver import Dovecot, dovecot_version, needs_root
from tests.kit.peers.postfixserver import Postfix
from tests.kit.server import Server, room_for, until
from tests.kit.support import peer, script

YES, NO, LATER = 0, 100, 111


class StandIn:
    """A server that gives each command its reply, 250 for those without one; None closes the connection."""

    def __init__(self, host: str = "127.0.0.1", family: int = socket.AF_INET) -> None:
        self.replies: dict[bytes, bytes | None] = {b"": b"220 hi\r\n", b"QUIT": b"221 bye\r\n"}
        self.received: list[bytes] = []
        self.connections = 0
        self.listener = socket.create_server((host, 0), family=family)
        self.where = f"inet:127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            with client, client.makefile("rb") as lines:
                try:
                    self.converse(client, lines)
                except OSError:
                    continue

    def converse(self, client: socket.socket, lines: "Iterator[bytes]") -> None:
        verb = b""
        while True:
            reply = self.replies.get(verb, b"250 ok\r\n")
            if reply is None:
                return
            client.sendall(reply)
            line = next(lines, None)
            if line is None:
                return
            self.received.append(line)
            verb = line.split(b" ")[0].rstrip(b"\r\n")


@pytest.fixture
def server() -> Iterator[StandIn]:
    standin = StandIn()
    yield standin
    standin.listener.close()


@pytest.fixture
def environ(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[bytes, bytes]:
    monkeypatch.setattr("qmail_smtpd.recipients.answers.memory", {})
    home = make_home(tmp_path / "home")
    return {b"QMAILHOME": bytes(home), b"RCPTCHECK_SERVER": server.where.encode(), b"RECIPIENT": b"joe@example.com"}


def test_a_recipient_is_asked_about_in_one_transaction_without_a_message(
    server: StandIn, environ: dict[bytes, bytes]
) -> None:
    assert postfix.check_recipient(environ, None) == YES
    assert server.received == [
        b"EHLO mx.example.org\r\n", b"MAIL FROM:<>\r\n", b"RCPT TO:<joe@example.com>\r\n", b"RSET\r\n", b"QUIT\r\n"
    ]  # fmt: skip


def test_lmtp_says_lhlo(server: StandIn, environ: dict[bytes, bytes]) -> None:
    assert postfix.check_recipient({**environ, b"RCPTCHECK_SERVER": b"lmtp:" + server.where.encode()}, None) == YES
    assert server.received[0] == b"LHLO mx.example.org\r\n"


def test_a_server_at_an_ipv6_address(environ: dict[bytes, bytes]) -> None:
    standin = StandIn("::1", socket.AF_INET6)
    where = standin.where.replace("127.0.0.1", "[::1]").encode()
    with standin.listener:
        assert postfix.check_recipient({**environ, b"RCPTCHECK_SERVER": where}, None) == YES


def test_a_server_without_ehlo_gets_helo(server: StandIn, environ: dict[bytes, bytes]) -> None:
    server.replies[b"EHLO"] = b"502 no\r\n"
    assert postfix.check_recipient(environ, None) == YES
    assert server.received[1] == b"HELO mx.example.org\r\n"


@pytest.mark.parametrize(
    ("verb", "reply", "code"),
    [
        (b"RCPT", b"250-one\r\n250 two\r\n", YES),
        (b"RCPT", b"251 elsewhere\r\n", YES),
        (b"RCPT", b"250\n", YES),
        (b"RCPT", b"550 5.1.1 no\r\n", NO),
        (b"RCPT", b"550-no\r\n550 really\r\n", NO),
        (b"RCPT", b"554 5.7.1 relay access denied\r\n", NO),
        (b"RCPT", b"450 4.1.1 later\r\n", LATER),
        (b"RCPT", b"421 bye\r\n", LATER),
        (b"RCPT", b"503 MAIL first\r\n", LATER),
        (b"RCPT", b"552 5.2.2 full\r\n", LATER),
        (b"RCPT", b"354 what\r\n", LATER),
        (b"RCPT", b"yes\r\n", LATER),
        (b"RCPT", b"\r\n", LATER),
        (b"RCPT", b"2500 ok\r\n", LATER),
        (b"RCPT", b"250-" + b"x" * 5000 + b"\r\n250-" + b"x" * 5000 + b"\r\n250 ok\r\n", LATER),
        (b"RCPT", b"2" * 1_000_000, LATER),
        (b"RCPT", b"250-x\r\n" * 100_000, LATER),
        (b"RCPT", None, LATER),
        (b"", b"554 no\r\n", LATER),
        (b"", b"421 busy\r\n", LATER),
        (b"", None, LATER),
        (b"EHLO", b"421 no\r\n", LATER),
        (b"MAIL", b"550 no bounces\r\n", LATER),
        (b"MAIL", None, LATER),
        (b"RSET", b"500 what\r\n", YES),
        (b"RSET", None, YES),
        (b"QUIT", None, YES),
    ],
)
def test_each_answer_has_its_exit_code(
    server: StandIn, environ: dict[bytes, bytes], verb: bytes, reply: bytes | None, code: int,
    capfd: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    server.replies[verb] = reply
    assert postfix.check_recipient(environ, None) == code
    stderr = capfd.readouterr().err
    assert stderr.count("\n") == (code == LATER)
    assert not stderr or stderr.startswith("rcptcheck-postfix: fatal: ")


@pytest.mark.parametrize("verb", [b"", b"EHLO", b"RCPT"])
@pytest.mark.parametrize("start", [b"", b"250-slow\r\n"])
def test_a_server_that_hangs_is_given_up(
    server: StandIn, environ: dict[bytes, bytes], verb: bytes, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callout, "SECONDS", 0.2)
    server.replies[verb] = start
    assert postfix.check_recipient(environ, None) == LATER


def test_the_deadline_of_the_session_counts(server: StandIn, environ: dict[bytes, bytes]) -> None:
    server.replies[b"RCPT"] = b""
    assert postfix.check_recipient(environ, callout.monotonic() + 0.2) == LATER
    assert postfix.check_recipient(environ, callout.monotonic() - 1) == LATER


@pytest.mark.parametrize(
    "where",
    [
        "", "127.0.0.1:25", "inet:127.0.0.1", "inet:127.0.0.1:0", "inet:127.0.0.1:65536", "inet:127.0.0.1:x",
        "inet:mail.example.com:25", "unix:", "unix:" + "x" * 108, "lmtp:", "smtp:inet:127.0.0.1:25", "inet::25",
        "inet:1.2.3.4.5:25", "unix:/nonexistent", "lmtp:unix:/nonexistent",
    ],
)  # fmt: skip
def test_a_server_that_cannot_be_reached_accepts_nobody(environ: dict[bytes, bytes], where: str) -> None:
    assert postfix.check_recipient({**environ, b"RCPTCHECK_SERVER": where.encode()}, None) == LATER


def test_without_a_descriptor_nothing_can_be_asked(
    environ: dict[bytes, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    with room_for(0):
        assert postfix.check_recipient(environ, None) == LATER
    message = "rcptcheck-postfix: fatal: unable to make a socket: process cannot open more files\n"
    assert capfd.readouterr().err == message


@pytest.mark.parametrize(
    ("recipient", "code", "path"),
    [
        (b"a b@example.com", YES, b'<"a b"@example.com>'),
        (b'a"b\\c@example.com', YES, b'<"a\\"b\\\\c"@example.com>'),
        (b"a>b@example.com", YES, b'<"a>b"@example.com>'),
        (b"joe", YES, b"<joe>"),
        (b"postmaster", YES, None),
        (b"a\rRSET@example.com", NO, None),
        (b"a\n@example.com", NO, None),
        (b"a@exa mple.com", NO, None),
        (b"a@example.com>", NO, None),
        (b"\xff@example.com", NO, None),
        (b"@example.com", NO, None),
        (b"", NO, None),
    ],
)
def test_no_recipient_can_end_its_command(
    server: StandIn, environ: dict[bytes, bytes], recipient: bytes, code: int, path: bytes | None
) -> None:
    assert postfix.check_recipient({**environ, b"RECIPIENT": recipient}, None) == code
    commands = [line for line in server.received if line.startswith(b"RCPT")]
    assert commands == ([] if path is None else [b"RCPT TO:" + path + b"\r\n"])


@pytest.mark.parametrize(
    ("offer", "recipient", "code", "path"),
    [
        (b"250-mx\r\n250-SIZE 1\r\n250 smtpUTF8\r\n", "jürgen@bücher.example", YES, "<jürgen@bücher.example>"),
        (b"250-mx\r\n250 SMTPUTF8\r\n", "joe@bücher.example", YES, "<joe@bücher.example>"),
        (b"250-mx\r\n250 XSMTPUTF8\r\n", "jürgen@example.com", LATER, None),
        (b"250 mx\r\n", "jürgen@example.com", LATER, None),
        (b"502 no\r\n", "jürgen@example.com", LATER, None),
        (b"250-mx\r\n250 SMTPUTF8\r\n", "ü>\rRSET@example.com", LATER, None),
        (b"250-mx\r\n250 SMTPUTF8\r\n", "joe@example.com\uff0cann@example.com", LATER, None),
    ],
)
def test_where_smtputf8_is_offered_it_asks_about_utf8_with_smtputf8_or_cannot_tell(
    server: StandIn, environ: dict[bytes, bytes], offer: bytes, recipient: str, code: int, path: str | None
) -> None:
    (Path(os.fsdecode(environ[b"QMAILHOME"])) / "control/smtputf8").touch()
    server.replies[b"EHLO"] = offer
    assert postfix.check_recipient({**environ, b"RECIPIENT": recipient.encode()}, None) == code
    mail = [line for line in server.received if line.startswith((b"MAIL", b"RCPT"))]
    assert mail == ([b"MAIL FROM:<> SMTPUTF8\r\n", f"RCPT TO:{path}\r\n".encode()] if path else [])


@pytest.mark.parametrize("name", [b"RCPTCHECK_ACCEPTED", b"RCPTCHECK_REFUSED"])
@pytest.mark.parametrize("text", [b"", b"-1", b"1.5", b"86401", b"99999999999999999999"])
def test_a_time_that_cannot_be_read_accepts_nobody(environ: dict[bytes, bytes], name: bytes, text: bytes) -> None:
    assert postfix.check_recipient({**environ, name: text}, None) == LATER


@pytest.mark.parametrize("cache", ["file", "memory"])
def test_answers_are_remembered_but_not_failures(
    server: StandIn, environ: dict[bytes, bytes], cache: str, tmp_path: Path
) -> None:
    if cache == "file":
        environ[b"RCPTCHECK_CACHE"] = bytes(tmp_path / "answers")
    for reply, code in ((b"450 later\r\n", LATER), (b"550 no\r\n", NO), (b"250 ok\r\n", NO)):
        server.replies[b"RCPT"] = reply
        assert postfix.check_recipient(environ, None) == code
    assert server.connections == 2
    assert postfix.check_recipient({**environ, b"RECIPIENT": b"ann@example.com"}, None) == YES
    server.replies[b"RCPT"] = b"550 no\r\n"
    assert postfix.check_recipient({**environ, b"RECIPIENT": b"ann@example.com"}, None) == YES
    assert server.connections == 3


def test_a_cache_that_cannot_be_used_is_a_warning(
    environ: dict[bytes, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    assert postfix.check_recipient({**environ, b"RCPTCHECK_CACHE": b"/nonexistent/answers"}, None) == YES
    warning = "rcptcheck-postfix: warning: unable to use /nonexistent/answers: file does not exist\n"
    assert capfd.readouterr().err == warning


@pytest.mark.parametrize("options", [["--exec"], ["--reuse", "1"], []], ids=["executed", "called", "reused"])
def test_a_session_runs_the_program(server: StandIn, tmp_path: Path, options: list[str]) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "validrcptto": "-spam@example.com\n@example.com\n"})
    environ = {"QMAILHOME": str(home), "RCPTCHECK": script("rcptcheck-postfix"), "RCPTCHECK_SERVER": server.where}
    words = ["-RHl0", *options, "127.0.0.1", "0", script("qmail-smtpd")]
    data = b"MAIL FROM:<s@s.test>\r\nRCPT TO:<joe@example.com>\r\nRCPT TO:<spam@example.com>\r\nQUIT\r\n"
    with Server(words, environ=environ) as smtpd:
        assert [line[:3] for line in smtpd.ask(data).split(b"\r\n")[2:4]] == [b"250", b"550"]
        server.replies[b"RCPT"] = b"550 no\r\n"
        data = data.replace(b"joe", b"ann")
        assert [line[:3] for line in smtpd.ask(data).split(b"\r\n")[2:4]] == [b"550", b"550"]
        server.listener.close()
        server.replies[b""] = None
        reply = smtpd.ask(data.replace(b"ann", b"eve")).split(b"\r\n")[2]
        assert reply == b"451 unable to verify recipient (#4.3.0)"
        assert smtpd.log().count(b" reason=rcptcheck:exit-111\n") == 1


def check(home: Path, where: str, recipient: str) -> int:
    """Run the program."""
    environ = {"PATH": os.environ["PATH"], "QMAILHOME": str(home), "RCPTCHECK_SERVER": where, "RECIPIENT": recipient}
    return subprocess.run([script("rcptcheck-postfix")], env=environ, check=False).returncode


@pytest.mark.peer
@needs_root
def test_postfix_answers(tmp_path: Path) -> None:
    peer("/usr/sbin/postfix")
    home = make_home(tmp_path / "home")
    accounts = tmp_path / "accounts"
    accounts.write_text("/^(joe|a b|jürgen)@example\\.com$/ x\n")
    more = (
        f"mydestination = localhost\nvirtual_mailbox_domains = example.com\nvirtual_mailbox_maps = regexp:{accounts}\n"
    )
    with Postfix(more) as server:
        where = f"inet:127.0.0.1:{server.port}"
        codes = [check(home, where, f"{name}@example.com") for name in ("joe", "JOE", "a b", "nobody", "x>y")]
        assert codes == [YES, YES, YES, NO, NO]
        assert check(home, where, "jürgen@example.com") == NO
        (home / "control/smtputf8").touch()
        assert [check(home, where, f"{name}@example.com") for name in ("jürgen", "jörg")] == [YES, NO]
        server.control("stop")
        until(lambda: check(home, where, "joe@example.com") == LATER)
        server.control("start")


LMTP = {
    "2.3": "protocols = pop3 imap lmtp\nauth_username_format = %Ln\n",
    "2.4": "protocols {\n  lmtp = yes\n}\nauth_username_format = %{user|username|lower}\n",
}
LISTENER = "service lmtp {\n  unix_listener TOP/lmtp {\n    mode = 0666\n  }\n}\n"


@pytest.mark.peer
@needs_root
def test_dovecot_answers_by_lmtp(tmp_path: Path) -> None:
    peer("/usr/lib/dovecot/lmtp")
    home = make_home(tmp_path / "home")
    with Dovecot(LMTP[dovecot_version()] + LISTENER) as dovecot:
        where = f"lmtp:unix:{dovecot.top}/lmtp"
        codes = [check(home, where, f"{name}@example.com") for name in ("joe", "Joe", "nobody")]
        assert codes == [YES, YES, NO], dovecot.log()
        assert not list(dovecot.maildir.glob("new/*"))
    assert check(home, where, "joe@example.com") == LATER


def test_a_relative_path_is_another_server_in_another_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relative = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        relative.append(postfix.home_of(callout.Server(b"lmtp:unix:run/lmtp")))
        for text in (b"unix:/run/lmtp", b"inet:127.0.0.1:25", b"inet:[::1]:25"):
            assert postfix.home_of(callout.Server(text)) == b""
    assert len({*relative, b""}) == 3
