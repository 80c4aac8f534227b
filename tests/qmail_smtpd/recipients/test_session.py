"""Sessions of qmail-smtpd with control/validrcptto: replies, log, clients that may relay, changes of the files."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.kit.mailhome import CLIENT, CONTROL, make_home, talk
from tests.kit.server import Server
from tests.kit.support import script

LIST = "joe@example.com\n-spam@example.com\nann@elsewhere.test\n"
UNKNOWN = b"550 sorry, no mailbox here by that name (#5.1.1)\r\n"
RELAYING = {**CLIENT, "RELAYCLIENT": ""}
Case = tuple[str, str]
RECIPIENTS: list[Case] = [  # recipient, code
    ("joe@example.com", "250"),
    ("JOE@EXAMPLE.COM", "250"),
    ("nobody@example.com", "550"),
    ("spam@example.com", "550"),
    ("anybody@a.wild.example", "250"),  # no entry names the domain
    ("postmaster", "250"),
    ("ann@elsewhere.test", "553"),  # an entry makes no domain acceptable
    ("nobody@elsewhere.test", "553"),
]


def session(recipients: list[Case]) -> str:
    commands = "".join(f"RCPT TO:<{recipient}>\r\n" for recipient, _ in recipients)
    return f"MAIL FROM:<s@sender.test>\r\n{commands}QUIT\r\n"


@pytest.fixture(params=["list", "cdb"])
def home(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    home = make_home(tmp_path / "home", {**CONTROL, "validrcptto": LIST})
    if request.param == "cdb":
        compile_list(home)
    return home


def compile_list(home: Path) -> None:
    subprocess.run([script("qmail-newvrt")], env={"PATH": os.environ["PATH"], "QMAILHOME": str(home)}, check=True)


def test_unknown_recipients_are_refused_and_logged(home: Path) -> None:
    done = talk(home, session(RECIPIENTS))
    assert done.codes[2:-1] == [code for _, code in RECIPIENTS]
    assert done.stdout.count(UNKNOWN) == 2
    unknown = [line for line in done.stderr.splitlines() if line.endswith(b" reason=unknown")]
    assert [line.split(b" recipient=")[1] for line in unknown] == [
        b"nobody@example.com reason=unknown",
        b"spam@example.com reason=unknown",
    ]
    assert unknown[0].startswith(b"qmail-smtpd: event=refused pid=")
    assert b" sender=s@sender.test " in unknown[0]


def test_clients_that_may_relay_are_refused_for_the_domains_of_rcpthosts_only(home: Path) -> None:
    cases = [("nobody@example.com", "550"), ("joe@example.com", "250"), ("nobody@elsewhere.test", "250")]
    assert talk(home, session(cases), RELAYING).codes[2:-1] == [code for _, code in cases]
    (home / "control/rcpthosts").unlink()
    assert talk(home, session(cases), RELAYING).codes[2:-1] == ["250"] * 3


def test_a_spelling_of_a_domain_that_rcpthosts_accepts_is_looked_up_and_counts_for_brtlimit(tmp_path: Path) -> None:
    lists = {"rcpthosts": "xn--bcher-kva.example\n", "validrcptto": "joe@xn--bcher-kva.example\n"}
    home = make_home(tmp_path / "home", {**CONTROL, **lists, "smtputf8": "", "brtlimit": "2\n"})
    names = ["joe@xn--bcher-kva.example", "joe@bücher.example", "nobody@bücher.example", "nobody@xn--bcher-kva.example"]
    text = session([(name, "") for name in [*names, names[0]]]).replace("<s@sender.test>", "<> SMTPUTF8")
    done = talk(home, ("EHLO me\r\n" + text).encode())
    assert done.codes[done.codes.index("250") + 2 :] == ["250", "250", "550", "550", "421"]


def test_without_rcpthosts_the_list_still_counts(home: Path) -> None:
    (home / "control/rcpthosts").unlink()
    cases = [("nobody@elsewhere.test", "550"), ("nobody@example.com", "550"), ("x@third.test", "250")]
    assert talk(home, session(cases)).codes[2:-1] == [code for _, code in cases]


def test_the_suffix_of_relayclient_is_not_looked_up(home: Path) -> None:
    cases = [("joe@example.com", "250"), ("nobody@example.com", "550")]
    assert talk(home, session(cases), {**CLIENT, "RELAYCLIENT": "@relay"}).codes[2:-1] == ["250", "550"]


def test_the_own_address_literal_is_looked_up_as_localiphost(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "localiphost": "example.com\n", "validrcptto": LIST})
    cases = [("joe@[127.0.0.1]", "250"), ("nobody@[127.0.0.1]", "550")]
    assert talk(home, session(cases)).codes[2:-1] == ["250", "550"]


@pytest.mark.parametrize("name", ["validrcptto", "validrcptto.cdb"])
def test_a_file_that_cannot_be_read_ends_the_session_before_it_begins(tmp_path: Path, name: str) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, name: {"b64": ""}})
    (home / "control" / name).unlink()
    (home / "control" / name).symlink_to("nowhere")
    done = talk(home, session(RECIPIENTS))
    assert (done.stdout, done.status) == (b"421 unable to read controls (#4.3.0)\r\n", 1)
    assert b"unable to read control/" + name.encode() in done.stderr


def test_a_broken_cdb_ends_the_session_when_it_is_used(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "validrcptto.cdb": "broken"})
    done = talk(home, session([("joe@example.com", "421")]))
    assert done.codes == ["220", "250", "421"]
    assert b"reason=unreadable why=unable_to_read_control/validrcptto.cdb:_not_a_cdb" in done.stderr


@pytest.mark.parametrize("options", [["--exec"], ["--reuse", "1"], []], ids=["executed", "called", "reused"])
def test_a_change_takes_effect_with_the_next_client(home: Path, options: list[str]) -> None:
    compiled = (home / "control/validrcptto.cdb").exists()
    words = ["-RHl0", *options, "127.0.0.1", "0", script("qmail-smtpd")]
    data = session([("joe@example.com", ""), ("new@example.com", "")]).encode()

    def codes(server: Server) -> list[bytes]:
        return [line[:3] for line in server.ask(data).splitlines()][2:-1]

    with Server(words, environ={"QMAILHOME": str(home)}) as server:
        assert codes(server) == [b"250", b"550"]
        (home / "control/validrcptto").write_text("new@example.com\n")
        if compiled:
            compile_list(home)
        assert codes(server) == [b"550", b"250"]
        (home / "control/validrcptto").unlink()
        if compiled:
            assert codes(server) == [b"550", b"250"]
            (home / "control/validrcptto.cdb").unlink()
        assert codes(server) == [b"250", b"250"]


def test_a_compiled_list_that_is_edited_in_place_takes_effect_with_the_next_client(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "validrcptto": LIST})
    os.utime(home / "control/validrcptto", (1e9, 1e9))
    compile_list(home)
    words = ["-RHl0", "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home)}) as server:
        data = session([("new@example.com", "")]).encode()
        assert b"\r\n550 " in server.ask(data)
        assert b"has changed" not in server.log()
        with (home / "control/validrcptto").open("a") as file:
            file.write("new@example.com\n")
        assert server.ask(data).count(b"\r\n250 ") == 2
        assert b"validrcptto has changed since it was compiled" in server.log()
