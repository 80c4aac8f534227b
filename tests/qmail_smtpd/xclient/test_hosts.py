"""control/xclienthosts: which lines list which hosts, and what a line that is not understood does."""

from pathlib import Path

import pytest

from qmail_smtpd import control
from qmail_smtpd.setup import ControlFiles
from qmail_smtpd.smtp.xclient import ATTRIBUTES, WITHOUT_LOGIN
from qmail_smtpd.xclient.hosts import Hosts
from tests.kit.mailhome import CLIENT, CONTROL, make_home, talk

# A line, an address in it, an address that is not in it.
LINES = [
    (b"192.0.2.7", b"192.0.2.7", b"192.0.2.70"),
    (b"192.0.2.", b"192.0.2.255", b"192.0.20.1"),
    (b"10.", b"10.1.2.3", b"100.1.2.3"),
    (b"192.0.2.7-9", b"192.0.2.9", b"192.0.2.10"),
    (b"10.1-3.", b"10.3.0.1", b"10.4.0.1"),
    (b"10.1-3.0.1", b"10.2.0.1", b"10.2.0.2"),
    (b"10.0.0.0/8", b"10.255.0.1", b"11.0.0.1"),
    (b"172.16.0.0/12", b"172.31.0.1", b"172.32.0.1"),
    (b"192.0.2.0/25", b"192.0.2.127", b"192.0.2.128"),
    (b"2001:DB8::7", b"2001:db8::7", b"2001:db8::70"),
    (b"2001:db8::/32", b"2001:db8:1::1", b"2001:db9::1"),
    (b"::ffff:192.0.2.7", b"192.0.2.7", b"::1"),
]
FAULTS = [
    b"0.0.0.0/0",
    b"::/0",
    b"10.0.0.1/8",
    b"192.0.2",
    b"192.0.2.256",
    b"192.0.2.07",
    b"192.0.2.1.",
    b"192.0.2.9-7",
    b"1-2.3-4.",
    b"192.0.2.-7",
    b"192.0.2.7-",
    b".",
    b"-",
    b"=proxy.example",
    b"joe@192.0.2.7",
    b"proxy.example",
    b"192.0.2.7:allow",
    b"192.0.2.7 LOGIN",
    b"192.0.2.7 login login",
    b"192.0.2.7login",
    b"192.0.2.7 # the proxy",
    b"192.0.2.7\r",
    b" 192.0.2.7",
    b"\xef\xbb\xbf192.0.2.7",
    b"login",
    b"*",
]


@pytest.mark.parametrize(("line", "inside", "outside"), LINES)
def test_a_line_lists_its_addresses_with_the_word_login_for_login_too(
    line: bytes, inside: bytes, outside: bytes
) -> None:
    hosts = Hosts([line])
    assert (hosts.attributes(inside), hosts.attributes(outside), hosts.faults) == (WITHOUT_LOGIN, (), [])
    hosts = Hosts([line + b" \t login"])
    assert (hosts.attributes(inside), hosts.attributes(outside), hosts.faults) == (ATTRIBUTES, (), [])


@pytest.mark.parametrize("line", FAULTS)
def test_a_line_that_is_not_understood_lists_nobody(line: bytes) -> None:
    hosts = Hosts([line, b"198.51.100.1"])
    assert [fault for fault, why in hosts.faults if why] == [line]
    for ip in (b"192.0.2.7", b"10.0.0.1", b"::1", b"", b"unknown", b"proxy.example", line):
        assert hosts.attributes(ip) == ()
    assert hosts.attributes(b"198.51.100.1")


def test_the_most_specific_line_decides_and_of_two_equal_ones_the_stricter() -> None:
    hosts = Hosts([b"10. login", b"10.0.0.1", b"10.0.0.2", b"10.0.0.2 login", b"10.0.0.3 login", b"10.0.0.3"])
    assert [hosts.attributes(b"10.0.0.%d" % number) for number in range(1, 5)] == [
        WITHOUT_LOGIN,
        WITHOUT_LOGIN,
        WITHOUT_LOGIN,
        ATTRIBUTES,
    ]


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        ("192.0.2.1\n198.51.100.1-\n*\n", None),
        ({"dir": True}, "unable to read control/xclienthosts: is a directory: XCLIENT is not offered"),
    ],
)
def test_a_mistake_in_the_file_is_one_warning(content: object, warning: str | None, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "xclienthosts": content})
    result = talk(home, "EHLO x\r\nXCLIENT ADDR=192.0.2.9\r\nQUIT\r\n")
    warnings = [line for line in result.stderr.split(b"\n") if b"warning" in line]
    expected = warning or ("control/xclienthosts has lines without effect: 198.51.100.1-: not an address or a network")
    assert warnings == [f"qmail-smtpd: warning: {expected}".encode()]
    assert (b"XCLIENT" in result.stdout) == (warning is None)  # 192.0.2.1 is listed, unless nobody is
    assert result.codes[-2:] == ["220" if warning is None else "502", "221"]


def test_a_dangling_link_lists_nobody(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    (home / "control/xclienthosts").symlink_to("nowhere")
    result = talk(home, "XCLIENT ADDR=192.0.2.9\r\nQUIT\r\n")
    assert result.codes == ["220", "502", "221"]
    assert result.stderr.count(b"warning: unable to read control/xclienthosts") == 1


def test_a_session_without_an_address_is_not_listed(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "xclienthosts": "192.0.2.1\n"})
    unnamed = {**CLIENT, "TCPREMOTEIP": "192.0.2.1", "NORELAY": ""}  # a proxy's client that the proxy does not name
    for environ in ({}, {"TCPREMOTEIP": ""}, {**CLIENT, "TCPREMOTEIP": "192.0.2.2"}, unnamed):
        assert talk(home, "XCLIENT ADDR=192.0.2.9\r\nQUIT\r\n", environ).codes == ["220", "502", "221"]


def test_a_failure_to_read_the_file_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target of a link can be created later, and the directory of the link does not change then."""
    home = make_home(tmp_path / "home")
    (home / "control/xclienthosts").symlink_to(tmp_path / "later")
    monkeypatch.chdir(home)
    for name, value in (("caches", {}), ("current_cache", []), ("cache_enabled", [True]), ("SETTLED", 0.0)):
        monkeypatch.setattr(control, name, value)
    control.enter(bytes(home))
    assert control.cached("settings", ControlFiles).xclienthosts is None
    (tmp_path / "later").write_text("192.0.2.1\n")
    control.enter(bytes(home))
    hosts = control.cached("settings", ControlFiles).xclienthosts
    assert hosts is not None
    assert hosts.attributes(b"192.0.2.1")
    control.enter(bytes(home))
    assert control.cached("settings", ControlFiles).xclienthosts is hosts
