"""Logins and clearopensmtp killed before each of their system calls: live entries stay, and the next run cleans up."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qmail_smtpd.relay.store import Store
from tcprules.lookup import judge, open_rules
from tests.kit.relayhome import NOW, Home

KINDS = ["directory", "open-smtp"]
LIVE, DEAD, NEW = b"192.0.2.7", b"192.0.2.8", b"2001:db8::7"
CALLS = ("open", "read", "write", "fsync", "close", "fchmod", "fchown", "rename", "unlink", "utime", "stat", "listdir")
OPERATIONS: dict[str, Callable[[Store], object]] = {
    "a new login": lambda store: store.allow(NEW, b"ann", b"imap"),
    "a repeated login": lambda store: store.allow(LIVE, b"ann", b"imap"),
    "a clearer": lambda store: store.expire(),
    "a denial": lambda store: store.deny(DEAD),
}
MOST_CALLS = 200
GRANTED = [(b"RELAYCLIENT", b""), (b"RBLSMTPD", b"")]


def homes(path: Path, kind: str) -> Iterator[Home]:
    """Yield homes with one live and one dead entry."""
    for number in range(MOST_CALLS):
        home = Home(path / str(number), kind)
        if kind == "open-smtp":
            (home.store / "tcp.smtp").write_text("192.0.2.9:deny\n:allow\n")
        home.open(NOW - 2400).allow(DEAD, b"joe", b"pop3")
        home.open(NOW - 60).allow(LIVE, b"joe", b"pop3")
        if kind == "open-smtp":  # the second login has removed the dead entry: put it back
            with (home.store / "open-smtp").open("ab") as file:
                file.write(b'%b:allow,RELAYCLIENT="",RBLSMTPD=""\t%d\n' % (DEAD, NOW - 2400))
        yield home


def is_killed_at(number: int, run: Callable[[], object]) -> bool:
    """Run this in a child that is killed before its system call of this number.

    Return False if it makes fewer calls.
    """
    child = os.fork()
    if not child:
        try:
            count = iter(range(MOST_CALLS))

            def kill_before(real: Callable[..., object]) -> Callable[..., object]:
                def call(*words: object, **options: object) -> object:
                    if next(count) == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*words, **options)

                return call

            for name in CALLS:
                setattr(os, name, kill_before(getattr(os, name)))
            run()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def environment(home: Home, address: bytes) -> list[tuple[bytes, bytes]]:
    rules = open_rules(bytes(home.store / "tcp.smtp.cdb"))
    verdict = judge(rules, address, None, None)
    rules.close()
    return verdict.environment


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_process_leaves_live_entries_and_a_consistent_store(tmp_path: Path, kind: str, operation: str) -> None:
    for number, home in enumerate(homes(tmp_path, kind)):
        if not is_killed_at(number, lambda home=home: OPERATIONS[operation](home.open(NOW))):
            assert number > 3
            return
        assert home.open(NOW).check(LIVE)
        assert home.open(NOW).check(DEAD) is None
        assert {entry.address for entry in home.open(NOW).entries()} <= {LIVE, NEW}
        if kind == "open-smtp":
            assert environment(home, LIVE) == GRANTED
        home.open(NOW).expire()
        home.open(NOW).allow(NEW, b"ann", b"imap")
        assert {entry.address for entry in home.open(NOW).entries()} == {LIVE, NEW}
        if kind == "open-smtp":
            assert [environment(home, address) for address in (LIVE, NEW, DEAD)] == [GRANTED, GRANTED, []]
    pytest.fail("more calls than expected")
