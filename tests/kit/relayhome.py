"""A qmail home with a store for the relay programs, and the programs run in it."""

import os
from collections.abc import Callable
from pathlib import Path

from qmail_smtpd.relay import allow, check, clear
from qmail_smtpd.relay.entry import Entry
from qmail_smtpd.relay.kinds import open_store
from qmail_smtpd.relay.settings import Settings
from qmail_smtpd.relay.store import Store
from tests.kit import forked

PROXIES = b"127.0.0.1 ::1"
NOW = 1_795_500_000
SHOW = [b"/bin/sh", b"-c", b'echo "${RELAYCLIENT-unset},${RBLSMTPD-unset},${RELAY_USER-unset}"']
LIVE = b",,joe@example.com\n"  # the output of SHOW for a client that may relay
NOT_LIVE = b"unset,unset,unset\n"


class Home:
    """A qmail home with a store. `kind` is `directory` or `open-smtp`."""

    def __init__(self, path: Path, kind: str = "directory") -> None:
        self.path = path
        self.store = path / "store"
        (path / "control").mkdir(parents=True)
        self.store.mkdir()
        self.store.chmod(0o2775)
        self.environ = {b"QMAILHOME": bytes(path), b"PATH": os.environb[b"PATH"], b"RELAY_PROXIES": PROXIES}
        if kind == "directory":
            self.environ[b"RELAY_DIR"] = bytes(self.store)
        else:
            self.environ[b"RELAY_STORE"] = b"open-smtp:" + bytes(self.store)

    def open(self, now: float | None = NOW, **changes: bytes) -> Store:
        """Open the store, with a clock that is stopped at `now`; None: with the real clock."""
        store = open_store(Settings(self.environ | {name.encode(): value for name, value in changes.items()}))
        if now is not None:
            store.clock = lambda: now
        return store

    def control(self, name: str, text: str) -> None:
        (self.path / "control" / name).write_text(text)

    def run(self, main: Callable[[], object], *words: bytes, **changes: bytes | None) -> forked.Result:
        """Run a program. A variable that is None is unset."""
        environ = dict(self.environ)
        for name, value in changes.items():
            environ.pop(name.encode(), None)
            if value is not None:
                environ[name.encode()] = value
        return forked.run(main, [b"program", *words], environ=environ)

    def login(self, address: bytes, user: bytes = b"joe@example.com", port: bytes = b"110") -> forked.Result:
        return self.run(allow.main, b"true", TCPREMOTEIP=address, USER=user, TCPLOCALPORT=port)

    def check(self, address: bytes, **changes: bytes | None) -> bytes:
        """Return what the program after relay-check gets: `RELAYCLIENT,RBLSMTPD,RELAY_USER`."""
        done = self.run(check.main, *SHOW, TCPREMOTEIP=address, **changes)
        assert (done.stderr, done.exit) == (b"", 0)
        return done.stdout

    def environment_after_check(self, address: bytes, **changes: bytes) -> dict[str, bytes]:
        """Return the whole environment of the program after relay-check."""
        done = self.run(check.main, b"/usr/bin/env", b"-0", TCPREMOTEIP=address, **changes)
        pairs = [line.partition(b"=") for line in done.stdout.split(b"\0")[:-1]]
        return {name.decode(): value for name, _, value in pairs}

    def clear(self, **changes: bytes | None) -> forked.Result:
        return self.run(clear.main, **changes)


def facts(entry: Entry | None) -> tuple[bytes, bytes, bytes, int, int] | None:
    """Return the values of an entry as a tuple, for comparisons."""
    return (entry.address, entry.user, entry.service, entry.seen, entry.expires) if entry else None


SILENT = forked.Result(b"", b"", 0)
