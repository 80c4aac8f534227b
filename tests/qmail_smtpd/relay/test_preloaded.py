"""relay-check and relay-allow in tcpserver's chains: exec'd and called in a fork they do the same, and load little."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmail_smtpd import control
from qmail_smtpd.preload import read_control_files
from qmail_smtpd.relay import prepared
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.settings import Settings
from tests.kit.consolescript import install_script
from tests.kit.mailhome import CONTROL, make_home
from tests.kit.relayhome import NOW, Home
from tests.kit.server import Server, children, compiled, until
from tests.kit.support import ROOT, script

MODES = {
    "exec'd": ["--exec"],
    "called": ["--preload", "relay-allow", "--preload", "relay-check", "--preload", "show"],
    "called, with names": ["-h", "--preload", "relay-allow", "--preload", "relay-check", "--preload", "show"],
}
SHOW = """
import os, sys
NAMES = ("RELAYCLIENT", "RBLSMTPD", "RELAY_USER", "TCPREMOTEIP", "GIVEN", "PROTO")

def main():
    '''Print words, variables, directory, descriptors, umask and input.'''
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
    install_script(home.path, "show", SHOW)
    compiled(home.path / "cdb", RULES)
    return home


@pytest.fixture(scope="module")
def servers(home: Home) -> Iterator[dict[str, dict[str, Server]]]:
    """The servers by program and mode."""
    environ = {"PYTHONPATH": str(home.path), "GIVEN": "1", "USER": "joe"}
    environ |= {name.decode(): value.decode() for name, value in home.environ.items() if name != b"PATH"}
    rules = ["-x", str(home.path / "cdb")]
    by_program: dict[str, dict[str, Server]] = {}
    for program in ("relay-allow", "relay-check"):
        by_program[program] = {
            mode: Server(
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
            for mode, options in MODES.items()
        }
    yield by_program
    for servers_by_mode in by_program.values():
        for server in servers_by_mode.values():
            server.__exit__()


def reply(servers: dict[str, dict[str, Server]], program: str, source: str) -> bytes:
    """Return the output of the program after this one, which must be the same in every mode."""
    replies = {mode: server.ask(b"line\n", source) for mode, server in servers[program].items()}
    assert set(replies.values()) == {replies["exec'd"]}
    return replies["exec'd"]


def test_login_and_check_are_the_same_in_every_mode(home: Home, servers: dict[str, dict[str, Server]]) -> None:
    before = reply(servers, "relay-check", "127.0.0.5")
    assert b"[None, None, None, '127.0.0.5', '1', 'TCP']" in before
    assert before.startswith(b"['a b', '']")
    assert before.endswith(b"['0', '1', '2', '3'] 23 line\n\n")
    assert reply(servers, "relay-allow", "127.0.0.5") == before
    words = (home.store / "127.0.0.5").read_text().split()
    assert (words[1], words[5]) == ("127.0.0.5", "joe")
    after = reply(servers, "relay-check", "127.0.0.5")
    assert b"['', '', 'joe', '127.0.0.5', '1', 'TCP']" in after
    assert reply(servers, "relay-check", "127.0.0.50") == before.replace(b"127.0.0.5'", b"127.0.0.50'")


@pytest.mark.parametrize("address", ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.6", "127.0.0.7"])
def test_variables_that_a_rule_sets_apply_to_its_client(
    home: Home, servers: dict[str, dict[str, Server]], address: str
) -> None:
    home.open(time.time() - 100, RELAY_PROXIES=b"::1").allow(address.encode(), b"joe", b"pop3")
    output = reply(servers, "relay-check", address)
    if address == "127.0.0.3":
        assert output == b""
    else:
        relayclient = "'@x'" if address == "127.0.0.2" else "None"
        assert f"[{relayclient}, None, None, '{address}'".encode() in output


def test_changed_control_files_take_effect_after_a_second(home: Home, servers: dict[str, dict[str, Server]]) -> None:
    home.open(time.time() - 100).allow(b"127.0.0.9", b"joe", b"pop3")
    for server in servers["relay-check"].values():
        until(lambda server=server: b"['', '', 'joe'" in server.ask(b"", "127.0.0.9"))
    home.control("relayseconds", "50")
    for server in servers["relay-check"].values():
        until(lambda server=server: b"[None, None, None" in server.ask(b"", "127.0.0.9"))
    (home.path / "control" / "relayseconds").unlink()
    for server in servers["relay-check"].values():
        until(lambda server=server: b"['', '', 'joe'" in server.ask(b"", "127.0.0.9"))


def test_a_store_that_is_missing_for_a_while_is_found_again(home: Home, servers: dict[str, dict[str, Server]]) -> None:
    home.open(time.time()).allow(b"127.0.0.10", b"joe", b"pop3")
    away = home.store.with_name("away")
    home.store.rename(away)
    try:
        for program, text in (("relay-check", b"no relaying: unable to "), ("relay-allow", b"unable to ")):
            for server in servers[program].values():
                warning = b"%b: warning: %b" % (program.encode(), text)
                until(lambda server=server, warning=warning: refused_with_warning(server, warning))
    finally:
        away.rename(home.store)
    for server in servers["relay-check"].values():
        until(lambda server=server: b"['', '', 'joe'" in server.ask(b"", "127.0.0.10"))


def refused_with_warning(server: Server, warning: bytes) -> bool:
    """Whether a refused client has left a warning in the log. The parent may take a second to notice."""
    assert b"[None, None, None" in server.ask(b"", "127.0.0.10")
    return warning in server.log()


def test_a_process_that_serves_many_clients_notices_changed_control_files_too(tmp_path: Path) -> None:
    home = make_home(tmp_path / "mail", CONTROL)
    store = Home(tmp_path / "home")
    store.open(time.time() - 100).allow(b"127.0.0.9", b"joe", b"pop3")
    environ = {name.decode(): value.decode() for name, value in store.environ.items()} | {"QMAILHOME": str(home)}
    words = ["-1", "-RHl0", "127.0.0.1", "0", script("relay-check"), script("qmail-smtpd")]
    text = b"MAIL FROM:<s@s.test>\r\nRCPT TO:<u@elsewhere.test>\r\nQUIT\r\n"
    with Server(words, environ=environ) as server:
        assert b"\r\n250 ok\r\n250 ok\r\n" in server.ask(text, "127.0.0.9")
        processes = children(server.pid)
        (home / "control/relayseconds").write_text("50\n")
        for _ in range(60):  # less than the clients of one process
            time.sleep(0.05)
            if b"\r\n553 " in server.ask(text, "127.0.0.9"):
                break
        else:
            pytest.fail("three seconds later the old setting is still used")
        assert children(server.pid) == processes


# the parent's prepared store


def test_the_parent_reads_the_settings_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.setattr(prepared.Prepared, "until", 0.0)
    times = iter([1000.0, 1000.5, 1000.9, 1001.0, 1001.5, 1002.5, 1003.0, 1003.1, 1003.2, 1004.3])
    monkeypatch.setattr(prepared, "monotonic", lambda: next(times))
    read = []
    monkeypatch.setattr(prepared, "Settings", lambda environ: read.append(environ) or Settings(environ))
    found = []
    for _ in range(6):
        prepared.before_fork(home.environ)
        found.append(len(read))
    assert found == [1, 1, 1, 2, 2, 3]
    first = prepared.Prepared.store
    assert prepared.store_for(home.environ) is first
    other = home.environ | {b"RELAY_SECONDS": b"1"}
    second = prepared.store_for(other)
    assert second is not first
    assert prepared.store_for(other) is second
    assert prepared.store_for(other) is not second  # a second later
    assert len(read) == 5
    monkeypatch.setattr(prepared.Prepared, "store", None)


def test_a_store_error_in_the_parent_leaves_no_prepared_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.setattr(prepared.Prepared, "until", 0.0)
    monkeypatch.setattr(prepared.Prepared, "store", home.open(NOW))
    home.store.chmod(0o777)
    prepared.before_fork(home.environ)
    assert prepared.Prepared.store is None


# the modules that a program loads


FORBIDDEN = {
    *("argparse", "cdblib", "click", "collections", "dataclasses", "enum", "functools", "hashlib", "ipaddress", "json"),
    *("logging", "pathlib", "re", "signal", "socket", "ssl", "subprocess", "threading", "typing"),
}
MODULES = 34  # measured: 31 with the directory, 32 with open-smtp; 23 of them are ours


def loaded(words: list[str], environ: dict[bytes, bytes]) -> set[str]:
    """Return the modules that a Python program loads before it execs the next one."""
    done = subprocess.run([sys.executable, "-X", "importtime", *words], env=environ, capture_output=True, check=True)
    lines = done.stderr.decode().splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


@pytest.mark.parametrize("kind", ["directory", "open-smtp"])
@pytest.mark.parametrize("name", ["relay-allow", "relay-check"])
def test_an_exec_ed_program_loads_few_and_cheap_modules(tmp_path: Path, name: str, kind: str) -> None:
    home = Home(tmp_path / "home", kind)
    home.login(b"192.0.2.7")
    environ = home.environ | {b"TCPREMOTEIP": b"192.0.2.7", b"USER": b"joe", b"PYTHONPATH": bytes(ROOT)}
    found = loaded([script(name), "/bin/true"], environ) - loaded(["-c", "pass"], environ)
    assert not {module for module in found if module.split(".")[0] in FORBIDDEN}
    assert len(found) <= MODULES, sorted(found)


def test_sessions_find_the_settings_read_until_a_control_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "relaylimits": ".: 1/60\n", "relaydir": "/first\n"})
    monkeypatch.chdir(home)
    for name, value in (("caches", {}), ("current_cache", []), ("cache_enabled", [True]), ("SETTLED", 0.0)):
        monkeypatch.setattr(control, name, value)
    environ = {b"QMAILHOME": os.fsencode(home)}
    read_control_files(environ)

    def settings(**changes: bytes) -> Settings:
        control.enter(os.fsencode(home))
        return prepared.session_settings(environ | {name.encode(): value for name, value in changes.items()})

    with monkeypatch.context() as patched:
        patched.setattr(control, "open_control", None)
        first = settings()
        assert first.directory == b"/first"
        assert settings(RELAY_DIR=b"/of/a/rule").directory == b"/of/a/rule"
        assert settings() is first
    (home / "control/relaydir").write_text("/second\n")
    assert settings().directory == b"/second"
    (home / "control/relayseconds").write_text("9\n")
    assert settings().seconds == 9
    (home / "control/relaydir").write_text("relative\n")
    for _ in range(2):
        with pytest.raises(StoreError):
            settings()
    (home / "control/relaydir").unlink()
    assert settings().directory == b"/var/lib/relay"
    control.leave()
