"""The operations of every kind of store: allow, check, entries, deny, expire. Which addresses count, for how long."""

import os
from pathlib import Path

import pytest

from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.kinds import open_store
from qmail_smtpd.relay.settings import Settings
from tests.kit.relayhome import NOW, Home

KINDS = ["directory", "open-smtp"]
JOE = b"joe@example.com"
V4, V6 = b"192.0.2.7", b"2001:db8:85a3:8d3:1319:8a2e:370:7348"


@pytest.fixture(params=KINDS)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    return Home(tmp_path / "home", request.param)


def addresses(home: Home, now: float = NOW) -> list[bytes]:
    return sorted(entry.address for entry in home.open(now).entries())


@pytest.mark.parametrize("address", [V4, V6])
def test_an_allowed_client_has_a_live_entry_until_the_window_ends(home: Home, address: bytes) -> None:
    assert home.open(NOW).check(address) is None
    assert home.open(NOW).allow(address, JOE, b"pop3")
    for age, expected in ((0, True), (2399, True), (2399.9, True), (2400, False), (2401, False), (10**9, False)):
        entry = home.open(NOW + age).check(address)
        assert (entry is not None) == expected, age
        if entry:
            assert (entry.address, entry.seen, entry.expires) == (address, NOW, NOW + 2400)


def test_the_directory_keeps_user_and_service(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.open().allow(V4, JOE, b"imaps")
    entry = home.open().check(V4)
    assert entry
    assert (entry.user, entry.service) == (JOE, b"imaps")


def test_a_neighbour_has_no_entry(home: Home) -> None:
    home.open().allow(V4, JOE, b"pop3")
    home.open().allow(b"2001:db8::7", JOE, b"pop3")
    for address in (
        b"192.0.2.8",
        b"192.0.2.70",
        b"192.0.2.6",
        b"2.0.2.7",
        b"192.0.2.77",
        b"2001:db8::77",
        b"2001:db8::",
    ):
        assert home.open().check(address) is None


SPELLINGS = [(b"::ffff:192.0.2.7", V4), (V4, b"::FFFF:C000:207"), (b"2001:DB8:0::7", b"2001:db8::7"),
             (b"fe80::1%eth0", b"fe80::1%eth1")]  # fmt: skip


@pytest.mark.parametrize(("written", "asked"), SPELLINGS)
def test_all_spellings_of_an_address_are_one_client(home: Home, written: bytes, asked: bytes) -> None:
    home.open().allow(written, JOE, b"pop3")
    assert home.open().check(asked)
    assert home.open().deny(asked)
    assert home.open().check(written) is None


def test_a_new_login_renews_the_entry(home: Home) -> None:
    home.open(NOW).allow(V4, JOE, b"pop3")
    home.open(NOW + 2000).allow(V4, b"ann", b"imap")
    assert addresses(home, NOW + 4399) == [V4]
    assert addresses(home, NOW + 4400) == []


NEVER = [b"0.0.0.0", b"::", b"224.0.0.1", b"239.255.255.255", b"ff02::1", b"::ffff:0.0.0.0", b"::ffff:224.0.0.1",
         b"127.0.0.1", b"::1", b"::ffff:127.0.0.1", b"0::1"]  # fmt: skip


@pytest.mark.parametrize("address", NEVER)
def test_proxies_and_addresses_that_no_client_has_are_never_recorded(home: Home, address: bytes) -> None:
    before = sorted(os.listdir(home.store))
    assert home.open().allow(address, JOE, b"pop3") is False
    assert sorted(os.listdir(home.store)) == before
    assert home.open().check(address) is None


@pytest.mark.parametrize("address", [b"127.0.0.1", b"127.0.0.5", b"127.255.255.255", b"::1"])
def test_loopback_is_never_recorded_by_default(home: Home, address: bytes) -> None:
    assert home.open(RELAY_PROXIES=b"").allow(address, JOE, b"pop3") is False
    assert home.open(RELAY_PROXIES=b"192.0.2.1").allow(address, JOE, b"pop3") is True


def test_the_entry_of_an_address_that_becomes_a_proxy_does_not_count(home: Home) -> None:
    home.open().allow(V4, JOE, b"pop3")
    changed = {"RELAY_PROXIES": b"192.0.2.0/24"}
    assert home.open(NOW, **changed).check(V4) is None
    assert home.open(NOW, **changed).entries() == []
    assert home.open().check(V4)


@pytest.mark.parametrize(
    "address", [b"", b"unknown", b"1.2.3.4:allow", b":allow", b"../../etc/passwd", b"1.2.3.4\n", b"a" * 9999]
)
def test_an_invalid_address_is_an_error_and_nothing_is_written(home: Home, address: bytes) -> None:
    before = sorted(os.listdir(home.store))
    for ask in (
        lambda: home.open().allow(address, JOE, b"pop3"),
        lambda: home.open().check(address),
        lambda: home.open().deny(address),
    ):
        with pytest.raises(StoreError, match="not an address: "):
            ask()
    assert sorted(os.listdir(home.store)) == before


def test_entries_returns_the_live_ones(home: Home) -> None:
    for age, address in enumerate((V4, V6, b"192.0.2.8")):
        home.open(NOW + 1000 * age).allow(address, JOE, b"pop3")
    assert addresses(home, NOW + 2000) == sorted([V4, V6, b"192.0.2.8"])
    assert addresses(home, NOW + 2400) == sorted([V6, b"192.0.2.8"])
    assert addresses(home, NOW + 4400) == []


def test_a_denied_client_has_no_entry_until_its_next_login(home: Home) -> None:
    home.open().allow(V4, JOE, b"pop3")
    home.open().allow(V6, JOE, b"pop3")
    assert home.open().deny(V4) is True
    assert home.open().deny(V4) is False
    assert addresses(home) == [V6]
    home.open().allow(V4, JOE, b"pop3")
    assert home.open().check(V4)


def test_expire_removes_only_expired_entries(home: Home) -> None:
    home.open(NOW).allow(V4, JOE, b"pop3")
    home.open(NOW + 1).allow(V6, JOE, b"pop3")
    home.open(NOW + 2399).expire()
    assert addresses(home) == [V4, V6]
    home.open(NOW + 2400).expire()
    assert addresses(home, NOW) == [V6]
    home.open(NOW + 2400).expire()
    assert addresses(home, NOW) == [V6]
    home.open(NOW + 2401).expire()
    assert addresses(home, NOW) == []


def test_a_shorter_window_of_the_check_counts(home: Home) -> None:
    home.open(NOW).allow(V4, JOE, b"pop3")
    assert home.open(NOW + 899, RELAY_SECONDS=b"900").check(V4)
    assert home.open(NOW + 900, RELAY_SECONDS=b"900").check(V4) is None
    assert home.open(NOW + 900, RELAY_SECONDS=b"900").entries() == []


def test_the_window_of_the_recording_program_is_in_the_entry(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.open(NOW, RELAY_SECONDS=b"60").allow(V4, JOE, b"pop3")
    assert home.open(NOW + 59).check(V4)
    assert home.open(NOW + 60).check(V4) is None
    home.open(NOW, RELAY_SECONDS=b"9000").allow(V4, JOE, b"pop3")
    assert home.open(NOW + 8999).check(V4)


def test_the_window_can_be_set_and_can_be_zero(home: Home) -> None:
    home.open(NOW, RELAY_SECONDS=b"60").allow(V4, JOE, b"pop3")
    assert home.open(NOW + 59, RELAY_SECONDS=b"60").check(V4)
    assert home.open(NOW + 60, RELAY_SECONDS=b"60").check(V4) is None
    home.open(NOW, RELAY_SECONDS=b"0").allow(V4, JOE, b"pop3")
    assert home.open(NOW, RELAY_SECONDS=b"0").check(V4) is None


def test_the_longest_window_works(home: Home) -> None:
    longest = b"1000000000"
    home.open(NOW, RELAY_SECONDS=longest).allow(V4, JOE, b"pop3")
    assert home.open(NOW + 10**9 - 1, RELAY_SECONDS=longest).check(V4)
    with pytest.raises(StoreError, match="RELAY_SECONDS is not a number of seconds, or more than thirty years"):
        home.open(RELAY_SECONDS=b"1000000001")


JUMPS = [(-3600, False), (-121, False), (-120, True), (-1, True), (3600, False)]


@pytest.mark.parametrize(("jump", "expected"), JUMPS)
def test_a_clock_jump_prolongs_no_entry(home: Home, jump: int, expected: bool) -> None:
    home.open(NOW).allow(V4, JOE, b"pop3")
    assert (home.open(NOW + jump).check(V4) is not None) == expected


def test_an_entry_from_the_future_is_removed_before_it_becomes_live(home: Home) -> None:
    """The clock was a day ahead at the login; a day later another client may have the address."""
    home.open(NOW + 86400).allow(V4, JOE, b"pop3")
    home.open(NOW).expire()
    assert home.open(NOW + 86400).check(V4) is None


def test_a_login_after_the_clock_was_set_back_counts_at_once(home: Home) -> None:
    home.open(NOW + 86400).allow(V4, JOE, b"pop3")
    home.open(NOW).allow(V4, JOE, b"pop3")
    entry = home.open(NOW).check(V4)
    assert entry
    assert entry.seen == NOW


def test_times_beyond_2038_are_times(home: Home) -> None:
    later = 1 << 33
    home.open(later).allow(V4, JOE, b"pop3")
    assert home.open(later + 2399).check(V4)
    assert home.open(later + 2400).check(V4) is None
    assert home.open(NOW).check(V4) is None


# the settings


def settings(**environ: bytes) -> Settings:
    return Settings({name.encode(): value for name, value in environ.items()})


def test_the_defaults(tmp_path: Path) -> None:
    values = settings(QMAILHOME=bytes(tmp_path))
    assert (values.store, values.directory, values.seconds) == (b"", b"/var/lib/relay", None)
    assert {b"127.", b"::1"} <= values.unrecorded


def test_unset_and_empty_variables_come_from_the_control_files(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.control("relaystore", " open-smtp:/home/vpopmail/etc \n")
    home.control("relaydir", "/run/relay\n")
    home.control("relayseconds", "900\n\n")
    home.control("relayproxies", "192.0.2.1\n192.0.2.16/28\n")
    values = settings(QMAILHOME=bytes(home.path), RELAY_DIR=b"")
    assert (values.store, values.directory, values.seconds) == (b"open-smtp:/home/vpopmail/etc", b"/run/relay", 900)
    assert b"192.0.2.1" in values.unrecorded
    assert b"192.0.2.31" in values.unrecorded
    assert b"127." not in values.unrecorded
    values = settings(
        QMAILHOME=bytes(home.path), RELAY_DIR=b"/a", RELAY_SECONDS=b"1", RELAY_PROXIES=b"::1", RELAY_STORE=b"x"
    )
    assert (values.store, values.directory, values.seconds) == (b"x", b"/a", 1)
    assert b"192.0.2.1" not in values.unrecorded


WRONG = {
    "RELAY_SECONDS": [b"forty", b"-1", b"2400s", b"1e3", b"0x10", b"9" * 5000, b"9" * 15, b"24 00"],
    "RELAY_DIR": [b"relay", b"./relay", b"~/relay"],
    "RELAY_PROXIES": [b"proxy", b"127.", b"10.0.0.1/8", b"127.0.0.1,::1", b"127.0.0.1 \xff"],
    "RELAY_STORE": [
        b"redis",
        b"open-smtp",
        b"open-smtp:",
        b"open-smtp:etc",
        b"open-smtp:/etc:tcp.smtp",
        b"directory:/x",
        b"\n",
    ],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_an_invalid_setting_is_an_error(tmp_path: Path, name: str, value: bytes) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(StoreError) as raised:
        home.open(**{name: value})
    assert raised.value.text.replace(b"_", b"").isascii()
    assert b"\n" not in raised.value.text


def test_an_unreadable_control_file_is_an_error(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    (home.path / "control" / "relayseconds").mkdir()
    with pytest.raises(StoreError, match="unable to read control/relayseconds: is a directory"):
        home.open()


def test_a_path_with_a_nul_is_an_error(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.control("relaydir", "/var/lib\0/relay\n")
    with pytest.raises(StoreError):
        home.open(RELAY_DIR=b"")


def test_a_world_writable_store_is_an_error(home: Home) -> None:
    home.open().allow(V4, JOE, b"pop3")
    for mode in (0o777, 0o1777, 0o2777, 0o702):
        home.store.chmod(mode)
        with pytest.raises(StoreError, match="directory is world-writable: "):
            home.open()


def test_a_missing_store_is_an_error(home: Home) -> None:
    os.rename(home.store, home.path / "elsewhere")
    with pytest.raises(StoreError, match=f"unable to read {home.store}: file does not exist"):
        home.open()


def test_the_clock_is_the_system_time(home: Home) -> None:
    home.open(None).allow(V4, JOE, b"pop3")
    assert open_store(Settings(home.environ)).check(V4)
