"""The entries of control/validrcptto and the keys of a recipient."""

import pytest

from qmail_smtpd.recipients.entries import MOST_DASHES, Entries, keys


@pytest.mark.parametrize(
    ("line", "key", "accepts"),
    [
        (b"joe@ok.test", b"joe@ok.test", True),
        (b"Joe@OK.Test", b"joe@ok.test", True),
        (b"@ok.test", b"@ok.test", True),
        (b"-spam@ok.test", b"spam@ok.test", False),
        (b"-@ok.test", b"@ok.test", False),
        (b"joe-*@ok.test", b"joe-default@ok.test", True),
        (b"joe-default@ok.test", b"joe-default@ok.test", True),
        (b"-joe-list-*@ok.test", b"joe-list-default@ok.test", False),
        (b"joe-@ok.test", b"joe-@ok.test", True),
        (b"a@b@ok.test", b"a@b@ok.test", True),
        (b"j\xc3\x96e@ok.test", b"j\xc3\x96e@ok.test", True),
    ],
)
def test_an_entry_has_the_key_of_the_patch(line: bytes, key: bytes, accepts: bool) -> None:
    entries = Entries([line])
    assert (entries.keys, entries.faults, entries.domains) == ({key: accepts}, [], {b"ok.test"})


@pytest.mark.parametrize(
    "line",
    [
        b"ok.test",
        b"joe",
        b"joe@",
        b"*@ok.test",
        b"-*@ok.test",
        b"jo*@ok.test",
        b"joe@*.ok.test",
        b"joe@ok.test\r",
        b"joe@ok.test # the boss",
        b" joe@ok.test",
        b"\xef\xbb\xbfjoe@ok.test",
    ],
)
def test_a_line_that_no_recipient_matches_is_a_fault(line: bytes) -> None:
    entries = Entries([line, b"ann@ok.test"])
    assert entries.keys == {b"ann@ok.test": True}
    assert [text for text, _ in entries.faults] == [line]


@pytest.mark.parametrize("lines", [[b"joe@ok.test", b"-joe@ok.test"], [b"-joe@ok.test", b"joe@ok.test"]])
def test_of_two_entries_for_the_same_recipient_the_one_that_refuses_counts(lines: list[bytes]) -> None:
    assert Entries(lines).keys == {b"joe@ok.test": False}


def test_a_domain_of_which_nothing_is_accepted_is_named() -> None:
    lines = [b"-joe@closed.test", b"-@shut.test", b"-spam@ok.test", b"@ok.test"]
    assert Entries(lines).closed_domains() == [b"closed.test", b"shut.test"]


@pytest.mark.parametrize(
    ("recipient", "found"),
    [
        (b"joe@ok.test", [b"joe@ok.test"]),
        (
            b"joe-a-b@ok.test",
            [b"joe-a-b@ok.test", b"joe-a-default@ok.test", b"joe-default@ok.test"],
        ),
        (b"joe-@ok.test", [b"joe-@ok.test", b"joe-default@ok.test"]),
        (b"-joe@ok.test", [b"-joe@ok.test", b"-default@ok.test"]),
        (b"joe@my-host.test", [b"joe@my-host.test"]),
        (b"joe@", [b"joe@"]),
    ],
)
def test_the_most_specific_key_comes_first(recipient: bytes, found: list[bytes]) -> None:
    assert list(keys(recipient)) == found


def test_a_local_part_of_dashes_has_few_keys() -> None:
    assert len(list(keys(b"-" * 800 + b"@ok.test"))) == MOST_DASHES + 1
