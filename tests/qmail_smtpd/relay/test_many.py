"""A directory store with very many logins and counters: each is found, counted, listed and removed like one of ten."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmail_smtpd.relay.counters import ADDRESS, Key
from qmail_smtpd.relay.countfiles import CountFiles
from qmail_smtpd.relay.settings import Settings
from tests.kit.relayhome import Home
from tests.kit.support import times

pytestmark = pytest.mark.slow
MANY = times(100_000)
KNOWN = b"10.0.0.7"
LIMITS = ((3, 3600), (4, 86400))


def address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """A home with that many files of each kind. Those that no test looks at are empty."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        counts = home.store / "counts"
        counts.mkdir()
        for number in range(MANY):
            for path in (f"{home.store}/{address(number)}", f"{counts}/address={address(number)}"):
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        yield home


def test_a_login_is_found_among_many(home: Home) -> None:
    store = home.open(None)
    for known in (KNOWN, b"172.16.0.1"):
        assert store.check(known) is None
        assert store.allow(known, b"joe", b"pop3")
        assert store.check(known)
    assert sorted(entry.address for entry in store.entries()) == [KNOWN, b"172.16.0.1"]
    assert store.deny(KNOWN)
    assert store.check(KNOWN) is None


def test_a_limit_is_checked_among_many(home: Home) -> None:
    counters = CountFiles(Settings(home.environ))
    for key in (Key(ADDRESS, KNOWN), Key(ADDRESS, b"172.16.0.1")):
        assert counters.take(key, LIMITS, 2) == (2, None)
        assert counters.take(key, LIMITS, 2) == (1, (3, 3600))
    assert sorted(key.name for key in counters.counted()) == [KNOWN, b"172.16.0.1"]


def test_what_counts_nothing_is_removed_among_many(home: Home) -> None:
    counters = CountFiles(Settings(home.environ))
    counters.take(Key(ADDRESS, b"172.16.0.2"), LIMITS, 1)
    counters.expire()
    assert set(os.listdir(home.store / "counts")) <= {
        f"address={end}" for end in ("10.0.0.7", "172.16.0.1", "172.16.0.2")
    }
