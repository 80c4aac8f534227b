"""Several writers and an expiring process on one store, at full speed: counts them, and finds lost entries."""

import contextlib
import fcntl
import functools
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from qmail_smtpd.relay.entry import Entry
from qmail_smtpd.relay.errors import StoreError
from tests.kit.relayhome import Home

WINDOW = 2400
SHORT = 2  # seconds that a short login counts: its entry keeps expiring, being removed and coming back
LEAST = 40  # logins and clean-ups of each process, however slow the machine is
STEADY_EACH = 100  # logins of each writer that must be present at the end
VCHKPW_LINE = b'%b:allow,RELAYCLIENT="",RBLSMTPD=""\t%d\n'


class Report(NamedTuple):
    """What one process did: logins, failed logins, lasting addresses, lost addresses."""

    done: int
    refused: int
    steady: list[bytes]
    lost: list[bytes]


class Outcome(NamedTuple):
    """What all processes did. `lost` has addresses that were live and missing, at once or at the end."""

    logins: int
    refused: int
    clears: int
    steady: list[bytes]
    lost: list[bytes]


def stress(home: Home, seconds: float, writers: int = 8, vchkpw: int = 0) -> Outcome:
    """Run this many writers, of which `vchkpw` act as vchkpw does, and an expiring process for some seconds."""
    until = time.monotonic() + seconds
    operations: list[Callable[[], Report]] = [
        functools.partial(replay_vchkpw if number < vchkpw else write, home, number, until) for number in range(writers)
    ]
    *written, cleared = run([*operations, lambda: clear(home, until)])
    steady = [address for report in written for address in report.steady]
    present = {entry.address for entry in home.open(None).entries()}
    lost = [address for report in written for address in report.lost]
    lost += [address for address in steady if address not in present]
    return Outcome(sum(r.done for r in written), sum(r.refused for r in written), cleared.done, steady, lost)


def run(operations: list[Callable[[], Report]]) -> list[Report]:
    """Run each in its own process."""
    readers, pids = [], []
    for operation in operations:
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.write(writer, pickle.dumps(operation()))
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        pids.append(pid)
        readers.append(open(reader, "rb"))
    reports = []
    for pid, reader_file in zip(pids, readers, strict=True):
        with reader_file:
            reports.append(pickle.loads(reader_file.read()))
        assert os.waitpid(pid, 0)[1] == 0
    return reports


def write(home: Home, number: int, until: float) -> Report:
    """Log in repeatedly, from lasting addresses and from a few whose entries keep expiring."""
    store, done, refused = home.open(None), 0, 0
    steady: list[bytes] = []
    lost: list[bytes] = []
    while time.monotonic() < until or done < LEAST:
        is_steady = done % 10 == 0 and len(steady) < STEADY_EACH
        address = b"10.1.%d.%d" % (number, len(steady)) if is_steady else b"10.0.%d.%d" % (number, done % 20)
        seen = int(time.time()) - (0 if is_steady else WINDOW - SHORT)
        done += 1
        try:
            store.put(Entry(address, b"joe", b"pop3", seen, seen + WINDOW))
        except StoreError:
            refused += 1
            continue
        if is_steady:
            steady.append(address)
        found = store.check(address)
        if not found and int(time.time()) < seen + WINDOW:
            lost.append(address)
    return Report(done, refused, steady, lost)


def clear(home: Home, until: float) -> Report:
    """Expire repeatedly."""
    done = refused = 0
    while time.monotonic() < until or done < LEAST:
        try:
            home.open(None).expire()
        except StoreError:
            refused += 1
        done += 1
    return Report(done, refused, [], [])


def replay_vchkpw(home: Home, number: int, until: float) -> Report:
    """Act as open_smtp_relay in vpopmail.c: copy the list without the address, append its new line, under the lock."""
    done = refused = 0
    steady = []
    while time.monotonic() < until or done < LEAST:
        address = b"10.2.%d.%d" % (number, done % STEADY_EACH)
        done += 1
        if not copy_and_append(home.store, address):
            refused += 1
        elif address not in steady:
            steady.append(address)
        time.sleep(0.01)
    return Report(done, refused, steady, [])


def copy_and_append(directory: Path, address: bytes) -> bool:
    """Record one login. Return False if the lock was not available; vchkpw would go on without it."""
    lock = os.open(directory / "open-smtp.lock", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + 5
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        path = directory / "open-smtp"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.partition(b":")[0] != address]
        new = directory / f"open-smtp.tmp.{os.getpid()}"
        new.write_bytes(b"".join(kept) + VCHKPW_LINE % (address, int(time.time())))
        new.rename(path)
        return True
    finally:
        os.close(lock)
