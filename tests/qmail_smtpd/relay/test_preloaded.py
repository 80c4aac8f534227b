"""relay-check and relay-allow in tcpserver's chains: exec'd and called they do the same, and load little."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmail_smtpd.relay import prepared
from qmail_smtpd.relay.settings import Settings
from tests.kit.consolescript import lay
from tests.kit.relayhome import NOW, Home
from tests.kit.server import Server, compiled, until
from tests.kit.support import ROOT, script

WAYS = {
    "exec'd": [],
    "called": ["--preload", "relay-allow", "--preload", "relay-check", "--preload", "show"],
    "called, with names": ["-h", "--preload", "relay-allow", "--preload", "relay-check", "--preload", "show"],
}
SHOW = """
import os, sys
NAMES = ("RELAYCLIENT", "RBLSMTPD", "RELAY_USER", "TCPREMOTEIP", "GIVEN", "PROTO")

def main():
    '''Say what was found: words, variables, directory, descriptors, umask.'''
    print(sys.argv[1:], [os.environ.get(name) for name in NAMES], os.getcwd(), os.listdir('/proc/self/fd'), os.umask(0),
          sys.stdin.read())
"""
RULES = """\
127.0.0.2:allow,RELAYCLIENT="@x"
127.0.0.3:deny
127.0.0.4:allow,RELAY_DIR="/nowhere"
127.0.0.6:allow,RELAY_SECONDS="1"
127.0.0.7:allow,RELAY_PROXIES="127.0.0.7"
:allow
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("preloaded") / "home")
    lay(home.path, "show", SHOW)
    compiled(home.path / "cdb", RULES)
    return home


@pytest.fixture(scope="module")
def servers(home: Home) -> Iterator[dict[str, dict[str, Server]]]:
    """By the program and the way."""
    environ = {"PYTHONPATH": str(home.path), "GIVEN": "1", "USER": "joe"}
    environ |= {name.decode(): value.decode() for name, value in home.environ.items() if name != b"PATH"}
    rules = ["-x", str(home.path / "cdb")]
    found: dict[str, dict[str, Server]] = {}
    for program in ("relay-allow", "relay-check"):
        found[program] = {
            way: Server(
                [
                    "-HRl0",
                    *options,
                    *rules,
                    "127.0.0.1",
                    "0",
                    script(program),
                    str(home.path / "bin" / "show"),
                    "a b",
                    "",
                ],
                environ=environ,
                preexec=lambda: os.umask(0o27),
            )
            for way, options in WAYS.items()
        }
    yield found
    for ways in found.values():
        for server in ways.values():
            server.__exit__()


def said(servers: dict[str, dict[str, Server]], program: str, source: str) -> bytes:
    """What the program after this one says, which must be the same in every way."""
    answers = {way: server.ask(b"line\n", source) for way, server in servers[program].items()}
    assert set(answers.values()) == {answers["exec'd"]}
    return answers["exec'd"]


def test_a_login_and_then_a_check_are_the_same_in_every_way(home: Home, servers: dict[str, dict[str, Server]]) -> None:
    before = said(servers, "relay-check", "127.0.0.5")
    assert b"[None, None, None, '127.0.0.5', '1', 'TCP']" in before
    assert before.startswith(b"['a b', '']")
    assert before.endswith(b"['0', '1', '2', '3'] 23 line\n\n")
    assert said(servers, "relay-allow", "127.0.0.5") == before
    words = (home.store / "127.0.0.5").read_text().split()
    assert (words[1], words[5]) == ("127.0.0.5", "joe")
    after = said(servers, "relay-check", "127.0.0.5")
    assert b"['', '', 'joe', '127.0.0.5', '1', 'TCP']" in after
    assert said(servers, "relay-check", "127.0.0.50") == before.replace(b"127.0.0.5'", b"127.0.0.50'")


@pytest.mark.parametrize("address", ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.6", "127.0.0.7"])
def test_what_a_rule_sets_for_a_client_counts_for_that_client(
    home: Home, servers: dict[str, dict[str, Server]], address: str
) -> None:
    home.open(time.time() - 100, RELAY_PROXIES=b"::1").allow(address.encode(), b"joe", b"pop3")
    answer = said(servers, "relay-check", address)
    if address == "127.0.0.3":
        assert answer == b""
    else:
        relayclient = "'@x'" if address == "127.0.0.2" else "None"
        assert f"[{relayclient}, None, None, '{address}'".encode() in answer


def test_control_files_that_change_count_a_second_later(home: Home, servers: dict[str, dict[str, Server]]) -> None:
    home.open(time.time() - 100).allow(b"127.0.0.9", b"joe", b"pop3")
    for server in servers["relay-check"].values():
        until(lambda server=server: b"['', '', 'joe'" in server.ask(b"", "127.0.0.9"))
    home.control("relayseconds", "50")
    for server in servers["relay-check"].values():
        until(lambda server=server: b"[None, None, None" in server.ask(b"", "127.0.0.9"))
    (home.path / "control" / "relayseconds").unlink()
    for server in servers["relay-check"].values():
        until(lambda server=server: b"['', '', 'joe'" in server.ask(b"", "127.0.0.9"))


def test_a_store_that_is_away_for_a_while_closes_and_opens_again(
    home: Home, servers: dict[str, dict[str, Server]]
) -> None:
    home.open(time.time()).allow(b"127.0.0.10", b"joe", b"pop3")
    away = home.store.with_name("away")
    home.store.rename(away)
    try:
        for program, text in (("relay-check", b"no relaying: unable to "), ("relay-allow", b"unable to ")):
            for server in servers[program].values():
                warning = b"%b: warning: %b" % (program.encode(), text)
                until(lambda server=server, warning=warning: said_nothing_and_warned(server, warning))
    finally:
        away.rename(home.store)
    for server in servers["relay-check"].values():
        until(lambda server=server: b"['', '', 'joe'" in server.ask(b"", "127.0.0.10"))


def said_nothing_and_warned(server: Server, warning: bytes) -> bool:
    """Whether a client that may not relay has left a warning; within a second the parent may not know yet."""
    assert b"[None, None, None" in server.ask(b"", "127.0.0.10")
    return warning in server.log()


# what the parent has ready


def test_the_parent_reads_the_settings_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.setattr(prepared.Prepared, "until", 0.0)
    times = iter([1000.0, 1000.5, 1000.9, 1001.0, 1001.5, 1002.5])
    monkeypatch.setattr(prepared, "monotonic", lambda: next(times))
    read = []
    monkeypatch.setattr(prepared, "Settings", lambda environ: read.append(environ) or Settings(environ))
    found = []
    for _ in range(6):
        prepared.before_fork(home.environ)
        found.append(len(read))
    assert found == [1, 1, 1, 2, 2, 3]
    assert prepared.store_for(home.environ) is prepared.Prepared.store
    assert prepared.store_for(home.environ | {b"RELAY_SECONDS": b"1"}) is not prepared.Prepared.store
    monkeypatch.setattr(prepared.Prepared, "store", None)


def test_trouble_in_the_parent_is_not_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.setattr(prepared.Prepared, "until", 0.0)
    monkeypatch.setattr(prepared.Prepared, "store", home.open(NOW))
    home.store.chmod(0o777)
    prepared.before_fork(home.environ)
    assert prepared.Prepared.store is None


# what a program loads


FORBIDDEN = {
    *("argparse", "cdblib", "click", "collections", "dataclasses", "enum", "functools", "hashlib", "ipaddress", "json"),
    *("logging", "pathlib", "re", "signal", "socket", "ssl", "subprocess", "threading", "typing"),
}
MODULES = 31  # measured: 28 with the directory, 29 with open-smtp; 20 of them are rooms of ours


def loaded(words: list[str], environ: dict[bytes, bytes]) -> set[str]:
    """The modules that a Python program loads before it becomes another."""
    done = subprocess.run([sys.executable, "-X", "importtime", *words], env=environ, capture_output=True, check=True)
    lines = done.stderr.decode().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


@pytest.mark.parametrize("kind", ["directory", "open-smtp"])
@pytest.mark.parametrize("name", ["relay-allow", "relay-check"])
def test_an_exec_ed_program_loads_only_cheap_modules_and_few(tmp_path: Path, name: str, kind: str) -> None:
    home = Home(tmp_path / "home", kind)
    home.login(b"192.0.2.7")
    environ = home.environ | {b"TCPREMOTEIP": b"192.0.2.7", b"USER": b"joe", b"PYTHONPATH": bytes(ROOT)}
    found = loaded([script(name), "/bin/true"], environ) - loaded(["-c", "pass"], environ)
    assert not {module for module in found if module.split(".")[0] in FORBIDDEN}
    assert len(found) <= MODULES, sorted(found)
