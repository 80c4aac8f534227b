"""vpopmail's open-smtp as a store: its lines, its lock, and the cdb that follows it."""

import fcntl
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.relay import files, openlist, rebuild
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.opensmtp import OpenSmtp
from tcprules import install
from tcprules.lookup import judge, open_rules
from tests.kit.relayhome import NOW, SILENT, Home
from tests.kit.relaystress import copy_and_append
from tests.kit.server import Server, compiled, needs_root
from tests.kit.support import peer, script

JOE = b"joe@example.com"
V4, V6 = b"192.0.2.7", b"2001:db8:85a3:8d3:1319:8a2e:370:7348"
RULE = b'%b:allow,RELAYCLIENT="",RBLSMTPD=""\t%d\n'
GRANTED = [(b"RELAYCLIENT", b""), (b"RBLSMTPD", b"")]
RULES = """\
127.:allow,RELAYCLIENT=""
192.0.2.:allow,QMAILQUEUE="/var/qmail/bin/scan",DATABYTES="100"
198.51.100.:deny
198.51.100.7:allow,WHO="exactly"
203.0.113.0/25:deny,WHY="spam"
2001:db8::/32:allow,NET="six"
2001:db8:bad::/48:deny
:allow,DEFAULT="1"
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with tcp.smtp, which the first change compiles."""
    home = Home(tmp_path / "home", "open-smtp")
    write_rules(home, RULES)
    return home


def write_rules(home: Home, text: str) -> None:
    (home.store / "tcp.smtp").write_text(text)


def listed(home: Home) -> bytes:
    return (home.store / "open-smtp").read_bytes()


def cdb(home: Home) -> Path:
    return home.store / "tcp.smtp.cdb"


def environment(home: Home, address: bytes) -> list[tuple[bytes, bytes]] | None:
    """Return the variables that tcpserver would set for a client, or None if the client is denied."""
    rules = open_rules(bytes(cdb(home)))
    verdict = judge(rules, address, None, None)
    rules.close()
    return None if verdict.deny else verdict.environment


def settle(home: Home) -> None:
    """Make the cdb match list and rules, with a time that is safely in the past."""
    home.open().expire()
    while time.time_ns() < cdb(home).stat().st_mtime_ns + 20_000_000:  # two ticks of the clock for file times
        pass
    home.open().expire()


# the list


def test_a_login_appends_vpopmails_line_to_the_list(home: Home) -> None:
    home.open(NOW).allow(V4, JOE, b"pop3")
    home.open(NOW + 1).allow(V6, JOE, b"pop3")
    assert listed(home) == RULE % (V4, NOW) + RULE % (V6, NOW + 1)
    home.open(NOW + 2).allow(V4, JOE, b"pop3")
    assert listed(home) == RULE % (V6, NOW + 1) + RULE % (V4, NOW + 2)


LINES = {
    b'192.0.2.7:allow,RELAYCLIENT="",RBLSMTPD=""\t1795500000': True,
    b'192.0.2.7:allow,RELAYCLIENT="",RBLSMTPD=""\t 1795500000': True,  # 2001
    b'192.0.2.7:allow,RELAYCLIENT="",RBLSMTPD=""     1795500000': True,  # 5.3.5
    b'192.0.2.7:allow,RELAYCLIENT="",RBLSMTPD=""\t1795500000\r': True,
    b'192.0.2.7:allow,RELAYCLIENT=""\t1795500000': True,  # before 4.6
    b'::ffff:192.0.2.7:allow,RELAYCLIENT="",RBLSMTPD=""\t1795500000': True,
    b'192.0.2.7:allow,RELAYCLIENT="",RBLSMTPD=""': False,
    b'192.0.2.7:allow,RELAYCLIENT="",RBLSMTPD=""1795500000': False,
    b'192.0.2.7:allow,RELAYCLIENT="",RBLSMTPD=""\t-1795500000': False,
    b'192.0.2.7:allow,RELAYCLIENT="",RBLSMTPD=""\t1795500000 1': False,
    b'192.0.2.7:allow,RELAYCLIENT="",RBLSMTPD=""\tsoon': False,
    b'192.0.2.7:allow,RELAYCLIENT="': False,
    b"192.0.2.7:allow\t1795500000": False,  # a rule that allows no relaying
    b'192.0.2.7:allow,SCAN="1",RBLSMTPD=""\t1795500000': False,
    b"192.0.2.7:deny\t1795500000": False,
    b"192.0.2.7\t1795500000": False,
    b'192.0.2.7 :allow,RELAYCLIENT="",RBLSMTPD=""\t1795500000': False,
    b'192.0.2.:allow,RELAYCLIENT="",RBLSMTPD=""\t1795500000': False,
    b'192.0.2.7-9:allow,RELAYCLIENT="",RBLSMTPD=""\t1795500000': False,
    b'=192.0.2.7:allow,RELAYCLIENT="",RBLSMTPD=""\t1795500000': False,
    b"#192.0.2.7:allow\t1795500000": False,
    b"": False,
    b"\0" * 50: False,
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_counts_if_it_has_an_address_and_a_time(home: Home, line: bytes) -> None:
    for content in (line, line + b"\n", b"\n\n" + line + b"\nx\n", RULE % (b"192.0.2.8", NOW) + line + b"\n"):
        (home.store / "open-smtp").write_bytes(content)
        found = [entry.seen for entry in home.open().entries() if entry.address == V4]
        assert found == [NOW] * LINES[line]
        if b"::ffff" not in line:
            assert (home.open().check(V4) is not None) == LINES[line]


def test_the_later_of_two_logins_from_one_address_counts(home: Home) -> None:
    for lines in ((RULE % (V4, NOW), RULE % (V4, NOW - 5000)), (RULE % (V4, NOW - 5000), RULE % (V4, NOW))):
        (home.store / "open-smtp").write_bytes(b"".join(lines))
        entry = home.open().check(V4)
        assert entry
        assert entry.seen == NOW
        assert [entry.seen for entry in home.open().entries()] == [NOW]


@given(st.lists(st.tuples(st.ip_addresses(v=4), st.integers(0, 2**40))), st.ip_addresses(v=4))
def test_find_agrees_with_parse(pairs: list[tuple[object, int]], asked: object) -> None:
    content = b"".join(RULE % (str(address).encode(), seen) for address, seen in pairs)
    parsed = openlist.parse(content)
    for address in [asked, *(address for address, _ in pairs)]:
        key = str(address).encode()
        assert openlist.find(content, key) == parsed.get(key)


@given(st.binary())
def test_random_bytes_are_an_empty_list(data: bytes) -> None:
    assert openlist.parse(data) == {}
    assert openlist.find(data, V4) is None


def test_the_list_is_replaced_atomically_and_keeps_its_mode(home: Home) -> None:
    home.open(NOW).allow(V4, JOE, b"pop3")
    before = (home.store / "open-smtp").stat()
    assert stat.S_IMODE(before.st_mode) == 0o644
    (home.store / "open-smtp").chmod(0o640)
    home.open(NOW).allow(V6, JOE, b"pop3")
    after = (home.store / "open-smtp").stat()
    assert after.st_ino != before.st_ino
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert stat.S_IMODE((home.store / "open-smtp.lock").stat().st_mode) == 0o600  # vpopmail's
    assert sorted(os.listdir(home.store)) == ["open-smtp", "open-smtp.lock", "tcp.smtp", "tcp.smtp.cdb"]


@needs_root
def test_root_keeps_the_owner_of_list_and_cdb(home: Home) -> None:
    home.open(NOW).allow(V4, JOE, b"pop3")
    for name in ("open-smtp", "tcp.smtp.cdb"):
        os.chown(home.store / name, 89, 89)
    home.open(NOW + 5000).expire()
    for name in ("open-smtp", "tcp.smtp.cdb"):
        found = (home.store / name).stat()
        assert (found.st_uid, found.st_gid) == (89, 89)


@needs_root
def test_files_created_by_root_get_the_directorys_owner(home: Home) -> None:
    """Cron runs before the first login; vchkpw is not root, and opens the list for writing."""
    os.chown(home.store, 89, 90)
    home.open(NOW).expire()
    for name in ("open-smtp", "open-smtp.lock"):
        found = (home.store / name).stat()
        assert (found.st_uid, found.st_gid) == (89, 90)


@pytest.mark.parametrize("what", ["a link", "a directory", "a FIFO"])
def test_a_list_that_is_no_regular_file_is_an_error_and_is_kept(home: Home, tmp_path: Path, what: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(RULE % (V4, NOW))
    path = home.store / "open-smtp"
    {"a link": lambda: path.symlink_to(victim), "a directory": path.mkdir, "a FIFO": lambda: os.mkfifo(path)}[what]()
    store = home.open()
    for ask in (lambda: store.check(V4), store.entries, store.expire, lambda: store.allow(V6, JOE, b"pop3")):
        with pytest.raises(StoreError, match=f"not a list: {path}"):
            ask()
    assert victim.read_bytes() == RULE % (V4, NOW)
    assert not path.is_file() or path.is_symlink()


def test_a_list_that_is_too_long_is_an_error(home: Home) -> None:
    (home.store / "open-smtp").touch()
    os.truncate(home.store / "open-smtp", (64 << 20) + 1)
    for ask in (home.open().entries, home.open().expire):
        with pytest.raises(StoreError, match="not a list: "):
            ask()


def test_without_a_change_nothing_is_written(home: Home) -> None:
    home.open(NOW).allow(V4, JOE, b"pop3")
    settle(home)
    before = (home.store / "open-smtp").stat(), cdb(home).stat()
    home.open(NOW).expire()
    assert ((home.store / "open-smtp").stat(), cdb(home).stat()) == before


# the lock


@pytest.mark.parametrize("change", ["allow", "deny", "expire"])
def test_without_the_lock_nothing_changes_and_the_error_is_reported(
    home: Home, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    settle(home)
    home.open(NOW).allow(V4, JOE, b"pop3")
    before = listed(home), cdb(home).stat()
    monkeypatch.setattr(files, "DEADLINE", 0.05)
    store = home.open(NOW + 9999)
    calls = {"allow": lambda: store.allow(V6, JOE, b"pop3"), "deny": lambda: store.deny(V4), "expire": store.expire}
    reader, writer = os.pipe()
    child = os.fork()
    if not child:  # in place of a running vchkpw
        lock = os.open(home.store / "open-smtp.lock", os.O_WRONLY)
        fcntl.lockf(lock, fcntl.LOCK_EX)
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    try:
        with pytest.raises(StoreError, match=r"unable to lock .*/open-smtp\.lock: timed out"):
            calls[change]()
        assert (listed(home), cdb(home).stat()) == before
        assert home.open(NOW).check(V4)  # a check takes no lock
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    calls[change]()


def test_the_deadline_is_five_seconds() -> None:
    assert files.DEADLINE == 5.0


def test_the_lock_is_held_from_reading_the_list_to_renaming_the_cdb(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A POSIX lock is released as soon as its process closes any descriptor of the file."""
    seen = []

    def try_lock_after(name: str, real: object) -> object:
        def called(*words: object) -> object:
            result = real(*words)  # type: ignore[operator]
            child = os.fork()
            if not child:
                lock = os.open(home.store / "open-smtp.lock", os.O_WRONLY)
                try:
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os._exit(11)
                os._exit(0)
            seen.append((name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
            return result

        return called

    monkeypatch.setattr(OpenSmtp, "read", try_lock_after("read", OpenSmtp.read))
    monkeypatch.setattr(OpenSmtp, "write", try_lock_after("write", OpenSmtp.write))
    monkeypatch.setattr(OpenSmtp, "rebuild", try_lock_after("rebuild", OpenSmtp.rebuild))
    home.open().allow(V4, JOE, b"pop3")
    assert seen == [("read", 11), ("write", 11), ("rebuild", 11)]


# the cdb


MERGED = {
    b"192.0.2.7": [(b"QMAILQUEUE", b"/var/qmail/bin/scan"), (b"DATABYTES", b"100"), *GRANTED],
    b"8.8.8.8": [(b"DEFAULT", b"1"), *GRANTED],
    b"198.51.100.7": [(b"WHO", b"exactly"), *GRANTED],
    b"127.0.0.9": [(b"RELAYCLIENT", b""), (b"RBLSMTPD", b"")],
    b"2001:db8::7": [(b"NET", b"six"), *GRANTED],
    b"2001:470::1": [(b"DEFAULT", b"1"), *GRANTED],
    b"198.51.100.8": None,
    b"203.0.113.9": None,
    b"2001:db8:bad::1": None,
}


@pytest.mark.parametrize("address", MERGED)
def test_a_live_address_gets_its_static_rules_variables_and_two_more_unless_denied(home: Home, address: bytes) -> None:
    home.open().allow(address, JOE, b"pop3")
    assert environment(home, address) == MERGED[address]
    neighbour = address[:-1] + b"5"
    if MERGED[address] is not None and neighbour != b"127.0.0.5":
        assert b"RELAYCLIENT" not in dict(environment(home, neighbour) or [])


def test_the_static_rules_come_first_and_unchanged(home: Home) -> None:
    settle(home)
    static = list(open_rules(bytes(cdb(home))).records())
    home.open().allow(b"8.8.8.8", JOE, b"pop3")
    home.open().allow(b"2001:470::1", JOE, b"pop3")
    now = list(open_rules(bytes(cdb(home))).records())
    assert now[: len(static)] == static
    assert [key for key, _ in now[len(static) :]] == [b"8.8.8.8", b"2001:470::1"]


def test_the_first_of_two_static_rules_for_an_address_counts(home: Home) -> None:
    write_rules(home, '192.0.2.7:allow,FIRST="1"\n192.0.2.7:deny\n192.0.2.:allow,NET="1"\n192.0.2.:deny\n')
    for address, expected in ((V4, b"FIRST"), (b"192.0.2.8", b"NET")):
        home.open().allow(address, JOE, b"pop3")
        assert environment(home, address) == [(expected, b"1"), *GRANTED]


def test_an_address_that_is_denied_has_no_record_of_its_own(home: Home) -> None:
    home.open().allow(b"198.51.100.8", JOE, b"pop3")
    assert b"198.51.100.8" not in dict(open_rules(bytes(cdb(home))).records())


def test_a_variable_that_a_static_rule_sets_is_not_overridden(home: Home) -> None:
    write_rules(home, '192.0.2.:allow,RELAYCLIENT="@fixup"\n:allow\n')
    home.open().allow(V4, JOE, b"pop3")
    assert environment(home, V4) == [(b"RELAYCLIENT", b"@fixup"), (b"RBLSMTPD", b"")]


@pytest.mark.peer
@pytest.mark.parametrize("address", [address for address in MERGED if b":" not in address])
def test_debians_tcprulescheck_agrees(home: Home, address: bytes) -> None:
    home.open().allow(address, JOE, b"pop3")
    command = [peer("/usr/bin/tcprulescheck"), str(cdb(home))]
    output = subprocess.run(command, env={"TCPREMOTEIP": address.decode()}, capture_output=True, check=True).stdout
    expected = MERGED[address]
    variables = b"".join(b"set environment variable %b=%b\n" % pair for pair in expected or [])
    assert output.endswith(b"deny connection\n" if expected is None else variables + b"allow connection\n")


def test_a_repeated_login_changes_the_time_but_not_the_cdb(home: Home) -> None:
    home.open(NOW).allow(V4, JOE, b"pop3")
    settle(home)
    before = cdb(home).stat()
    for later in (1, 2, 3):
        home.open(NOW + later).allow(V4, JOE, b"pop3")
        assert listed(home) == RULE % (V4, NOW + later)
    home.open(NOW + 3).expire()
    assert cdb(home).stat() == before


def test_a_login_adds_to_the_cdb_and_expire_removes_from_it(home: Home) -> None:
    home.open(NOW).allow(b"8.8.8.8", JOE, b"pop3")
    home.open(NOW + 1).allow(b"9.9.9.9", JOE, b"pop3")
    assert environment(home, b"8.8.8.8") == [(b"DEFAULT", b"1"), *GRANTED]
    home.open(NOW + 2400).expire()
    assert environment(home, b"8.8.8.8") == [(b"DEFAULT", b"1")]
    assert environment(home, b"9.9.9.9") == [(b"DEFAULT", b"1"), *GRANTED]
    home.open(NOW + 2400).deny(b"9.9.9.9")
    assert environment(home, b"9.9.9.9") == [(b"DEFAULT", b"1")]


def test_a_login_removes_expired_addresses_from_the_cdb_without_cron(home: Home) -> None:
    home.open(NOW).allow(b"8.8.8.8", JOE, b"pop3")
    home.open(NOW + 2400).allow(b"9.9.9.9", JOE, b"pop3")
    assert environment(home, b"8.8.8.8") == [(b"DEFAULT", b"1")]


def edit_rules(home: Home) -> None:
    write_rules(home, RULES + "8.8.8.8:deny\n")


def rename_rules_into_place(home: Home) -> None:
    """As an editor or a restored backup does: the new file has an old time."""
    new = home.store / "new"
    new.write_text(RULES + "8.8.8.8:deny\n")
    os.utime(new, (1_000_000_000, 1_000_000_000))
    new.rename(home.store / "tcp.smtp")


@pytest.mark.parametrize("edit", [edit_rules, rename_rules_into_place])
@pytest.mark.parametrize("then", ["expire", "login again"])
def test_new_rules_are_compiled_by_the_next_run_or_login(home: Home, edit: object, then: str) -> None:
    home.open(NOW).allow(b"8.8.8.8", JOE, b"pop3")
    settle(home)
    edit(home)  # type: ignore[operator]
    home.open().expire() if then == "expire" else home.open().allow(b"8.8.8.8", JOE, b"pop3")
    assert environment(home, b"8.8.8.8") is None


def test_rules_edited_during_the_compilation_are_compiled_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    real = rebuild.read_rules

    def read_then_edit(rules: bytes) -> object:
        found = real(rules)
        edit_rules(home)
        return found

    monkeypatch.setattr(rebuild, "read_rules", read_then_edit)
    home.open().allow(b"8.8.8.8", JOE, b"pop3")
    monkeypatch.undo()
    assert environment(home, b"8.8.8.8") is not None
    home.open().expire()
    assert environment(home, b"8.8.8.8") is None


def test_a_cdb_of_the_static_rules_alone_is_compiled_again(home: Home) -> None:
    """From `qmailctl cdb`, or a vchkpw that has run tcprules."""
    settle(home)
    static = cdb(home).read_bytes()
    home.open().allow(b"8.8.8.8", JOE, b"pop3")
    (home.store / "new").write_bytes(static)
    (home.store / "new").rename(cdb(home))
    assert b"RELAYCLIENT" not in dict(environment(home, b"8.8.8.8") or [])
    home.open().expire()
    assert environment(home, b"8.8.8.8") == [(b"DEFAULT", b"1"), *GRANTED]


def test_an_address_that_vchkpw_listed_is_in_the_cdb_after_the_next_run(home: Home) -> None:
    settle(home)
    copy_and_append(home.store, b"8.8.8.8")
    home.open(None).expire()
    assert environment(home, b"8.8.8.8") == [(b"DEFAULT", b"1"), *GRANTED]


def test_a_cdb_with_a_future_time_is_compiled_again(home: Home) -> None:
    home.open(None).allow(b"8.8.8.8", JOE, b"pop3")
    ahead = time.time_ns() + 10**12
    for name in ("open-smtp", "tcp.smtp.cdb"):
        os.utime(home.store / name, ns=(ahead, ahead))
    write_rules(home, "8.8.8.8:deny\n:allow\n")
    home.open(None).expire()
    assert environment(home, b"8.8.8.8") is None


def test_with_broken_rules_the_last_good_cdb_stays_and_the_line_is_named(home: Home) -> None:
    home.open(NOW).allow(b"8.8.8.8", JOE, b"pop3")
    good = cdb(home).read_bytes()
    write_rules(home, "127.:allow\n# a comment\n10.:alow\x1b\n")
    for ask in (home.open(NOW).expire, lambda: home.open(NOW).allow(b"9.9.9.9", JOE, b"pop3")):
        with pytest.raises(StoreError) as found:
            ask()
        assert found.value.text == b"unable to parse line 3 of %b/tcp.smtp: 10.:alow\\x1b" % bytes(home.store)
        assert cdb(home).read_bytes() == good
    assert sorted(os.listdir(home.store)) == ["open-smtp", "open-smtp.lock", "tcp.smtp", "tcp.smtp.cdb"]
    write_rules(home, ":allow\n")
    home.open(NOW).expire()
    for address in (b"8.8.8.8", b"9.9.9.9"):
        assert environment(home, address) == GRANTED


def test_with_missing_rules_the_last_good_cdb_stays(home: Home) -> None:
    home.open(NOW).allow(b"8.8.8.8", JOE, b"pop3")
    good = cdb(home).read_bytes()
    (home.store / "tcp.smtp").unlink()
    with pytest.raises(StoreError, match=r"unable to read .*/tcp\.smtp: file does not exist"):
        home.open(NOW).allow(b"9.9.9.9", JOE, b"pop3")
    assert cdb(home).read_bytes() == good


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


NO_RULES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a FIFO": (make_fifo, "timed out"),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), "is a directory"),
    "a huge hole": (lambda path: os.truncate(path, 1 << 40), "file too big"),
    "endless": (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "file too big"),
    "a link that leads nowhere": (lambda path: (path.unlink(), path.symlink_to("none")), "file does not exist"),
}


@pytest.mark.parametrize("case", NO_RULES)
@pytest.mark.parametrize("compiled", [True, False])
def test_rules_that_are_no_file_are_an_error_at_once_and_the_login_is_in_the_list(
    home: Home, case: str, compiled: bool
) -> None:
    """The list's lock is held while the rules are read."""
    if compiled:
        home.open(NOW).allow(b"8.8.8.8", JOE, b"pop3")
        good = cdb(home).read_bytes()
    make, why = NO_RULES[case]
    make(home.store / "tcp.smtp")
    start = time.monotonic()
    with pytest.raises(StoreError, match=rf"unable to read .*/tcp\.smtp: {why}"):
        home.open(NOW).allow(b"9.9.9.9", JOE, b"pop3")
    assert time.monotonic() - start < 4  # seconds: another login waits for the lock for five
    assert home.open(NOW).check(b"9.9.9.9")
    assert cdb(home).exists() == compiled
    assert not compiled or cdb(home).read_bytes() == good


def test_without_rules_and_cdb_there_is_only_the_list(home: Home) -> None:
    (home.store / "tcp.smtp").unlink()
    home.open(NOW).allow(V4, JOE, b"pop3")
    home.open(NOW).expire()
    assert home.open(NOW).check(V4)
    assert sorted(os.listdir(home.store)) == ["open-smtp", "open-smtp.lock"]


def test_without_a_list_the_cdb_has_only_the_static_rules(home: Home) -> None:
    home.open(NOW).allow(b"8.8.8.8", JOE, b"pop3")
    (home.store / "open-smtp").unlink()
    home.open(NOW).expire()
    assert environment(home, b"8.8.8.8") == [(b"DEFAULT", b"1")]


def test_a_missing_cdb_is_compiled_again(home: Home) -> None:
    home.open(NOW).allow(b"8.8.8.8", JOE, b"pop3")
    cdb(home).unlink()
    home.open(NOW).allow(b"8.8.8.8", JOE, b"pop3")
    assert environment(home, b"8.8.8.8") == [(b"DEFAULT", b"1"), *GRANTED]


def test_the_rules_may_be_in_another_directory(home: Home, tmp_path: Path) -> None:
    rules = tmp_path / "etc" / "qmail-smtpd"
    rules.parent.mkdir()
    rules.write_text('9.:allow,NINE="1"\n')
    old = os.umask(0o077)
    try:
        home.open(NOW, RELAY_STORE=b"open-smtp:%b:%b" % (bytes(home.store), bytes(rules))).allow(
            b"9.9.9.9", JOE, b"pop3"
        )
        assert os.umask(0o077) == 0o077  # the umask is restored
    finally:
        os.umask(old)
    compiled_cdb = rules.with_name("qmail-smtpd.cdb")
    assert stat.S_IMODE(compiled_cdb.stat().st_mode) == 0o644
    verdict = judge(open_rules(bytes(compiled_cdb)), b"9.9.9.9", None, None)
    assert verdict.environment == [(b"NINE", b"1"), *GRANTED]
    assert not cdb(home).exists()


def test_temporary_files_of_killed_processes_are_removed_in_the_rules_directory_too(home: Home) -> None:
    rules = home.path / "etc" / "tcp.smtp"
    rules.parent.mkdir()
    rules.write_text(":allow\n")
    kept = [".tmp.123.of_another_program", "tcp.smtp.tmp", ".tmp.tcp.smtp.cdb.new"]
    for name in [*kept, ".tmp.tcp.smtp.cdb.123.0a1b"]:
        (rules.parent / name).write_bytes(b"x")
        os.utime(rules.parent / name, (time.time() - 3700,) * 2)
    os.utime(rules.parent / kept[-1])
    home.open(RELAY_STORE=b"open-smtp:%b:%b" % (bytes(home.store), bytes(rules))).expire()
    assert sorted(os.listdir(rules.parent)) == sorted([*kept, "tcp.smtp", "tcp.smtp.cdb"])


def test_a_cdb_that_cannot_be_replaced_is_an_error_but_the_login_is_in_the_list(home: Home) -> None:
    rules = home.path / "etc" / "tcp.smtp"
    rules.parent.mkdir()
    rules.write_text(":allow\n")
    (home.path / "etc" / "tcp.smtp.cdb").mkdir()
    store = home.open(NOW, RELAY_STORE=b"open-smtp:%b:%b" % (bytes(home.store), bytes(rules)))
    with pytest.raises(StoreError, match="unable to move "):
        store.allow(V4, JOE, b"pop3")
    assert store.check(V4)
    assert sorted(os.listdir(rules.parent)) == ["tcp.smtp", "tcp.smtp.cdb"]


@pytest.mark.parametrize("call", ["flock", "fstat", "fsync"])
def test_a_failed_compilation_is_an_error_and_leaves_no_file(
    home: Home, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """NFS without locks, failures anywhere: a login goes on, and the directory does not fill up."""
    home.open(NOW).allow(V4, JOE, b"pop3")
    before = sorted(os.listdir(home.store))
    good = cdb(home).read_bytes()

    def failing(*words: object) -> object:
        raise OSError(37, os.strerror(37))

    monkeypatch.setattr(install.fcntl if call == "flock" else install.os, call, failing)
    with pytest.raises(StoreError, match=r"unable to .*: no locks available"):
        rebuild.rebuild(bytes(home.store / "tcp.smtp"), bytes(cdb(home)), [V6])
    monkeypatch.undo()
    assert sorted(os.listdir(home.store)) == before
    assert cdb(home).read_bytes() == good


def test_relay_check_ends_relaying_to_the_second_and_the_cdb_does_not(home: Home) -> None:
    """tcpserver with the static rules alone, and with the cdb compiled from the list, after the window has ended."""
    static = home.path / "static.cdb"
    compiled(static, ':allow,DEFAULT="1"\n')
    write_rules(home, ':allow,DEFAULT="1"\n')
    environ = {name.decode(): value.decode() for name, value in home.environ.items()} | {"RELAY_PROXIES": "::1"}
    words = [script("relay-check"), "sh", "-c", 'echo "${RELAYCLIENT-unset},$DEFAULT"']
    home.open(time.time() - 2000, RELAY_PROXIES=b"::1").allow(b"127.0.0.5", JOE, b"pop3")
    replies = []
    for rules, window in ((static, "2400"), (static, "1999"), (cdb(home), "1999")):
        environ["RELAY_SECONDS"] = window
        with Server(["-HRl0", "-x", str(rules), "127.0.0.1", "0", *words], environ=environ) as server:
            replies.append(server.ask(b"", "127.0.0.5"))
    assert replies == [b",1\n", b"unset,1\n", b",1\n"]


def test_a_run_of_cron_without_errors_prints_nothing(home: Home) -> None:
    assert home.clear() == SILENT
    assert home.clear() == SILENT
