"""The faults of vpopmail's roaming users (5.6.x, and every release since 2001): this store has none of them."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qmail_smtpd.relay import files
from qmail_smtpd.relay.errors import StoreError
from tcprules.lookup import judge, open_rules
from tests.kit.relayhome import LIVE, NOT_LIVE, NOW, SILENT, Home
from tests.kit.relaystress import copy_and_append, stress
from tests.kit.support import ROOT, peer, times

KINDS = ["directory", "open-smtp"]
JOE = b"joe@example.com"
V4, V6 = b"192.0.2.7", b"2001:db8:85a3:8d3:1319:8a2e:370:7348"
LONGEST = b"2001:1db8:85a3:18d3:1319:8a2e:1370:7348"  # 39 characters: there is no shorter spelling
GRANTED = [(b"RELAYCLIENT", b""), (b"RBLSMTPD", b"")]
SECONDS = times(3)  # for each kind of store; tests/bench/bench_relay.py runs for sixty


@pytest.fixture(params=KINDS)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    return Home(tmp_path / "home", request.param)


@pytest.fixture
def vpopmail(tmp_path: Path) -> Home:
    """vpopmail's files, with static rules without a default, as vpopmail writes them."""
    home = Home(tmp_path / "home", "open-smtp")
    (home.store / "tcp.smtp").write_text('127.:allow,RELAYCLIENT=""\n10.:allow,SCAN="1"\n10.6.:deny\n')
    return home


def environment(home: Home, address: bytes) -> list[tuple[bytes, bytes]] | None:
    rules = open_rules(bytes(home.store / "tcp.smtp.cdb"))
    verdict = judge(rules, address, None, None)
    rules.close()
    return None if verdict.deny else verdict.environment


@pytest.mark.slow
def test_fault_1_clearing_without_a_lock_loses_entries_and_two_runs_corrupt_the_file(home: Home) -> None:
    """Eight writers and an expiring process. With vpopmail's files, two of the writers act as vchkpw does."""
    if b"RELAY_STORE" in home.environ:
        (home.store / "tcp.smtp").write_text('10.1.:allow,SCAN="1"\n:allow\n')
    outcome = stress(home, SECONDS, writers=8, vchkpw=2 if b"RELAY_STORE" in home.environ else 0)
    assert outcome.lost == []
    assert min(outcome.logins - outcome.refused, outcome.clears, len(outcome.steady)) > 20
    assert home.clear() == SILENT
    assert not [name for name in os.listdir(home.store) if name.startswith(".tmp.")]
    if b"RELAY_STORE" in home.environ:
        for address in outcome.steady:
            expected = [(b"SCAN", b"1")] if address.startswith(b"10.1.") else []
            assert environment(home, address) == [*expected, *GRANTED]


def test_fault_1_each_temporary_name_is_unique() -> None:
    assert files.temporary_name(b"/d") != files.temporary_name(b"/d")


@pytest.mark.parametrize("operation", ["allow", "expire"])
def test_fault_2_after_a_failed_lock_vchkpw_goes_on_without_it(
    home: Home, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """The store retries in small steps for five seconds, then changes nothing, reports it, and lets the login go on."""
    assert files.DEADLINE == 5.0
    assert files.PAUSE < 0.01
    home.open(NOW).allow(V4, JOE, b"pop3")
    before = {path.name: path.read_bytes() for path in home.store.iterdir()}
    monkeypatch.setattr(files, "DEADLINE", 0.0)
    monkeypatch.setattr(files.fcntl, "lockf", always_held)
    if operation == "allow":
        done = home.login(V6)
        assert done.exit == 0
        assert done.stderr.startswith(b"relay-allow: warning: unable to lock %b/" % bytes(home.store))
    else:
        done = home.clear()
        assert done.exit == 111
        assert done.stderr.startswith(b"clearopensmtp: fatal: unable to lock %b/" % bytes(home.store))
    assert done.stderr.endswith(b"lock: timed out\n")
    assert done.stderr.count(b"\n") == 1
    assert {path.name: path.read_bytes() for path in home.store.iterdir()} == before


def always_held(descriptor: int, kind: int) -> None:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_fault_3_a_failure_of_tcprules_is_ignored(vpopmail: Home) -> None:
    assert vpopmail.login(V4) == SILENT
    good = (vpopmail.store / "tcp.smtp.cdb").read_bytes()
    (vpopmail.store / "tcp.smtp").write_text("127.:allow\n10.allow\n192.0.2.:alow\n")
    line = b"unable to parse line 3 of %b/tcp.smtp: 192.0.2.:alow\n" % bytes(vpopmail.store)
    done = vpopmail.clear()
    assert (done.stderr, done.exit) == (b"clearopensmtp: fatal: " + line, 111)
    done = vpopmail.login(b"192.0.2.8")
    assert (done.stderr, done.exit) == (b"relay-allow: warning: " + line, 0)
    assert (vpopmail.store / "tcp.smtp.cdb").read_bytes() == good


@pytest.mark.parametrize("address", [b"::1", b"", b"::", b"0.0.0.0", b"::ffff:127.0.0.1"])
def test_fault_4_a_login_over_ipv6_loopback_opens_the_relay_to_the_world(vpopmail: Home, address: bytes) -> None:
    (vpopmail.store / "tcp.smtp").write_text('127.:allow,RELAYCLIENT=""\n')
    vpopmail.login(address)
    vpopmail.clear()
    assert (vpopmail.store / "open-smtp").read_bytes() == b""
    assert environment(vpopmail, b"8.8.8.8") == []
    assert [key for key, _ in open_rules(bytes(vpopmail.store / "tcp.smtp.cdb")).records()] == [b"127."]


def test_fault_4_the_line_that_vchkpw_writes_for_it_is_not_compiled(vpopmail: Home) -> None:
    copy_and_append(vpopmail.store, b"")
    copy_and_append(vpopmail.store, b"8.8.4.4")
    vpopmail.clear()
    assert environment(vpopmail, b"8.8.8.8") == []
    assert environment(vpopmail, b"8.8.4.4") == GRANTED


@pytest.mark.parametrize(
    "address", [b"2001:db8::7", V6, LONGEST, b"::ffff:c000:207", b"2001:0DB8:85A3:08D3:1319:8A2E:0370:7348"]
)
def test_fault_5_an_ipv6_login_stops_every_rebuild_or_never_matches(vpopmail: Home, address: bytes) -> None:
    assert vpopmail.login(address) == SILENT
    assert vpopmail.login(b"8.8.4.4") == SILENT
    (found,) = (entry.address for entry in vpopmail.open(None).entries() if entry.address != b"8.8.4.4")
    for client in (found, b"8.8.4.4"):
        assert environment(vpopmail, client) == GRANTED
    assert vpopmail.check(address) == b",,\n"
    assert environment(vpopmail, b"2001:db8::8") == []


@pytest.mark.peer
@pytest.mark.parametrize("address", [V6, LONGEST])
def test_fault_5_debians_tcprulescheck_finds_ipv6_addresses_in_the_cdb(vpopmail: Home, address: bytes) -> None:
    vpopmail.login(address)
    command = [peer("/usr/bin/tcprulescheck"), str(vpopmail.store / "tcp.smtp.cdb")]
    output = subprocess.run(command, env={"TCPREMOTEIP": address.decode()}, capture_output=True, check=True).stdout
    assert b"set environment variable RELAYCLIENT=\n" in output


def test_fault_6_without_cron_relaying_never_ends(home: Home) -> None:
    home.open(int(time.time()) - 2399).allow(V4, JOE, b"pop3")
    home.open(int(time.time()) - 2401).allow(V6, JOE, b"pop3")
    assert home.open(None).check(V6) is None
    assert home.check(V6) == NOT_LIVE
    before = int(time.time())
    found = home.open(before - 1).check(V4)
    assert found
    assert home.open(found.expires).check(V4) is None


def test_fault_7_a_dynamic_rule_hides_the_static_one_and_a_static_denial(vpopmail: Home) -> None:
    for address in (b"10.1.2.3", b"10.6.6.6"):
        vpopmail.login(address)
    assert environment(vpopmail, b"10.1.2.3") == [(b"SCAN", b"1"), *GRANTED]
    assert environment(vpopmail, b"10.6.6.6") is None


def test_fault_7_relay_check_keeps_the_variables_that_the_rules_set(home: Home) -> None:
    home.login(V4)
    rules = {"SCAN": b"1", "QMAILQUEUE": b"/bin/scan", "RBLSMTPD": b"-no", "DATABYTES": b"9"}
    done = home.environment_after_check(V4, **rules)
    assert {name: done[name] for name in rules} == rules
    assert done["RELAYCLIENT"] == b""


@pytest.mark.peer
def test_fault_8_every_login_from_a_new_address_rebuilds_a_cdb(tmp_path: Path) -> None:
    """With the directory a login's cost does not depend on other entries: it reads no list and compiles no cdb."""
    home = Home(tmp_path / "home")
    calls = []
    for number in (1, 500):
        while len(os.listdir(home.store)) < number:
            last = len(os.listdir(home.store))
            (home.store / f"10.0.{last >> 8}.{last & 255}").touch()
        calls.append(system_calls(home))
    assert calls[0] == calls[1]
    assert "rename" in calls[0]


def system_calls(home: Home) -> list[str]:
    """Return the system calls of a login that name the store, once the store has been used."""
    home.login(V4)
    traced = home.path / "trace"
    words = [sys.executable, "-c", "from qmail_smtpd.relay.allow import main; main()", "/bin/true"]
    command = [peer("/usr/bin/strace"), "-o", str(traced), "-s", "4096", "-e", "trace=file", *words]
    environ = home.environ | {b"TCPREMOTEIP": V4, b"USER": b"joe", b"TCPLOCALPORT": b"110", b"PYTHONPATH": bytes(ROOT)}
    subprocess.run(command, env=environ, check=True)
    lines = [line for line in traced.read_text().splitlines() if str(home.store) in line]
    return [line.partition("(")[0] for line in lines]


def test_fault_9_temporary_files_are_left_when_the_address_is_unknown_or_the_disk_is_full(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.open(NOW).allow(V4, JOE, b"pop3")
    before = {path.name: path.read_bytes() for path in home.store.iterdir()}
    for address in (b"", b"unknown"):
        assert home.login(address).exit == 0
    for call, number in (
        ("write", errno.ENOSPC),
        ("fsync", errno.EIO),
        ("rename", errno.EDQUOT),
        ("fchmod", errno.EPERM),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, call, failing(number))
            with pytest.raises(StoreError, match=f"unable to write {home.store}/"):
                home.open(NOW).allow(V6, JOE, b"pop3")
    assert {path.name: path.read_bytes() for path in home.store.iterdir()} == before


def failing(number: int) -> object:
    def call(*words: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


def test_fault_9_the_temporary_file_of_a_killed_login_is_ignored_and_removed(home: Home) -> None:
    home.open(None).allow(V4, JOE, b"pop3")
    stray = home.store / ".tmp.1.0123456789abcdef"
    stray.write_bytes(b"1 192.0.2.8")
    os.utime(stray, (time.time() - 4000,) * 2)
    assert [entry.address for entry in home.open(None).entries()] == [V4]
    assert home.clear() == SILENT
    assert not stray.exists()


def test_fault_10_the_user_is_not_recorded(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.login(V4, user=b"joe@example.com", port=b"995")
    assert home.check(V4) == LIVE
    entry = home.open(None).check(V4)
    assert entry
    assert (entry.user, entry.service) == (b"joe@example.com", b"pop3s")
    assert abs(entry.seen - time.time()) < 60
