"""The environment after XCLIENT: what the client has, and what of the proxy's connection is gone."""

from pathlib import Path

import pytest

from qmail_smtpd.smtp.settings import Unreadable
from qmail_smtpd.xclient.client import environment, octets
from tests.kit.server import compiled

PROXY = {
    b"PATH": b"/bin",
    b"PROTO": b"TCP",
    b"TCPLOCALIP": b"10.0.0.2",
    b"TCPLOCALPORT": b"25",
    b"TCPLOCALHOST": b"mx.example.org",
    b"TCPREMOTEIP": b"10.0.0.1",
    b"TCPREMOTEPORT": b"4711",
    b"TCPREMOTEHOST": b"proxy.example.org",
    b"TCPREMOTEINFO": b"nginx",
}
BEHIND = {b"PROXYREMOTEIP": b"10.0.0.1", b"PROXYREMOTEPORT": b"4711"}
RULES = """10.0.0.1:allow,RELAYCLIENT="",QMAILQUEUE="/filter",QMAILHOME="/proxied",SMTPAUTH="!",XCLIENTRULES="x"
192.0.2.7:allow,RELAYCLIENT="@r",DATABYTES="7"
192.0.2.8:deny
192.0.2.9:allow,QMAILQUEUE="/nine",QMAILHOME="/nine"
2001:db8::/32:allow,NET="6"
nginx@192.0.2.:allow,RELAYCLIENT="by ident"
=trusted.example:allow,RELAYCLIENT="by name"
=proxy.example.org:allow,RELAYCLIENT="by the proxy's name"
:allow,ANY="any"
"""
OPEN = ':allow,RELAYCLIENT="",ANY="any"\n'


@pytest.fixture
def rules(tmp_path: Path) -> bytes:
    return bytes(compiled(tmp_path / "rules.cdb", RULES))


def proxy(rules: bytes | None = None) -> dict[bytes, bytes]:
    """Return the environment of the proxy's connection, as tcpserver with these rules sets it."""
    values = {b"RELAYCLIENT": b"", b"QMAILQUEUE": b"/filter", b"QMAILHOME": b"/proxied", b"SMTPAUTH": b"!"}
    return {**PROXY, **values} | ({} if rules is None else {b"XCLIENTRULES": rules})


def test_an_ipv4_client_has_nothing_of_the_proxys_end() -> None:
    environ, allowed = environment(PROXY, {b"ADDR": b"192.0.2.5"})
    assert allowed
    assert environ == {
        b"PATH": b"/bin",
        b"PROTO": b"TCP",
        b"TCPLOCALIP": b"10.0.0.2",
        b"TCPLOCALPORT": b"25",
        b"TCPLOCALHOST": b"mx.example.org",
        b"TCPREMOTEIP": b"192.0.2.5",
        **BEHIND,
    }


def test_every_attribute_has_its_variable() -> None:
    attributes: dict[bytes, bytes | None] = {
        b"ADDR": b"2001:db8::7",
        b"NAME": b"client.example",
        b"PORT": b"99",
        b"DESTADDR": b"2001:db8::25",
        b"DESTPORT": b"587",
        b"HELO": b"h",
        b"LOGIN": b"joe",
        b"PROTO": b"ESMTP",
    }
    environ, _ = environment(PROXY, attributes)
    expected = {
        b"LOCALIP": b"2001:db8::25",
        b"LOCALPORT": b"587",
        b"LOCALHOST": b"mx.example.org",
        b"REMOTEIP": b"2001:db8::7",
        b"REMOTEPORT": b"99",
        b"REMOTEHOST": b"client.example",
    }
    both = {prefix + name: value for prefix in (b"TCP", b"TCP6") for name, value in expected.items()}
    assert environ == {b"PATH": b"/bin", b"PROTO": b"TCP6", **both, **BEHIND}


def test_an_ipv6_proxy_leaves_nothing_in_the_names_of_ipv6() -> None:
    both = {b"TCP6" + name[3:]: value for name, value in PROXY.items() if name.startswith(b"TCP")}
    ipv6_proxy = {**PROXY, **both, b"TCP6INTERFACE": b"eth0", b"TCPREMOTEIP": b"::1", b"PROTO": b"TCP6"}
    environ, _ = environment(ipv6_proxy, {b"ADDR": b"192.0.2.5"})
    assert environ[b"PROTO"] == b"TCP"
    assert not [name for name in environ if name.startswith(b"TCP6")]


def test_what_the_proxy_does_not_know_is_unset() -> None:
    names = (b"ADDR", b"NAME", b"PORT", b"DESTADDR", b"DESTPORT")
    environ, _ = environment(PROXY, dict.fromkeys(names))
    known = {b"PATH": b"/bin", b"PROTO": b"TCP", b"TCPLOCALHOST": b"mx.example.org", b"NORELAY": b"1"}
    assert environ == {**known, **BEHIND}


@pytest.mark.parametrize(("attributes", "stays"), [({b"ADDR": b"192.0.2.5"}, False), ({b"HELO": b"h"}, True)])
def test_what_the_proxy_came_through_is_not_its_clients(attributes: dict[bytes, bytes | None], stays: bool) -> None:
    environ, _ = environment({**PROXY, b"TCPREMOTEVIA": b"gateway"}, attributes)
    assert (b"TCPREMOTEVIA" in environ) == stays


def test_without_addr_the_proxys_address_stays() -> None:
    environ, _ = environment(proxy(), {b"HELO": b"h"})
    assert environ[b"TCPREMOTEIP"] == b"10.0.0.1"
    assert environ[b"TCPREMOTEHOST"] == b"proxy.example.org"
    assert b"RELAYCLIENT" not in environ


def test_without_rules_the_right_to_relay_is_gone_and_other_variables_stay() -> None:
    right = {b"RELAY_USER": b"joe", b"RBLSMTPD": b""}  # with RELAYCLIENT, what relay-check sets
    environ, allowed = environment({**proxy(), **right}, {b"ADDR": b"192.0.2.7"})
    assert allowed
    assert not {b"RELAYCLIENT", b"RELAY_USER", b"RBLSMTPD"} & set(environ)
    assert environ[b"QMAILQUEUE"] == b"/filter"


def test_with_rules_the_client_has_what_its_rule_sets_and_not_what_the_proxys_has_set(rules: bytes) -> None:
    environ, allowed = environment(proxy(rules), {b"ADDR": b"192.0.2.7"})
    assert allowed
    assert (environ[b"RELAYCLIENT"], environ[b"DATABYTES"]) == (b"@r", b"7")
    assert not {b"QMAILQUEUE", b"SMTPAUTH", b"XCLIENTRULES"} & set(environ)
    assert environ[b"QMAILHOME"] == b"/proxied"  # no session goes back to the default home


def test_a_rule_may_give_the_client_another_home_and_queue_program(rules: bytes) -> None:
    environ, _ = environment(proxy(rules), {b"ADDR": b"192.0.2.9"})
    assert (environ[b"QMAILHOME"], environ[b"QMAILQUEUE"]) == (b"/nine", b"/nine")


@pytest.mark.parametrize(
    ("attributes", "variables"),
    [
        ({b"ADDR": b"192.0.2.5"}, {b"ANY": b"any"}),  # neither ident's answer nor the name is the client's
        ({b"ADDR": b"2001:db8:1::1"}, {b"NET": b"6"}),
        ({b"ADDR": b"192.0.2.5", b"NAME": b"trusted.example"}, {b"RELAYCLIENT": b"by name"}),
        ({b"ADDR": b"192.0.2.5", b"NAME": None}, {b"ANY": b"any"}),
        ({b"ADDR": None, b"NAME": b"trusted.example"}, {b"ANY": b"any"}),  # a name without an address proves nothing
        ({b"ADDR": b"192.0.2.5", b"LOGIN": b"nginx"}, {b"ANY": b"any"}),  # a user is no answer of ident
    ],
)
def test_rules_are_asked_for_the_client(
    attributes: dict[bytes, bytes | None], variables: dict[bytes, bytes], rules: bytes
) -> None:
    environ, allowed = environment(proxy(rules), attributes)
    assert allowed
    assert {name: environ[name] for name in (b"RELAYCLIENT", b"ANY", b"NET") if name in environ} == variables


def test_a_client_without_an_address_never_relays_by_a_rule(tmp_path: Path) -> None:
    rules = bytes(compiled(tmp_path / "open.cdb", OPEN))
    environ, _ = environment(proxy(rules), {b"ADDR": b"192.0.2.5"})
    assert environ[b"RELAYCLIENT"] == b""
    assert b"NORELAY" not in environ
    environ, allowed = environment(proxy(rules), {b"ADDR": None})
    assert allowed
    assert environ[b"ANY"] == b"any"
    assert environ[b"NORELAY"] == b"1"  # qmail-smtpd then ignores RELAYCLIENT


def test_rules_deny_the_client_and_its_environment_names_it(rules: bytes) -> None:
    environ, allowed = environment(proxy(rules), {b"ADDR": b"192.0.2.8"})
    assert not allowed
    assert environ[b"TCPREMOTEIP"] == b"192.0.2.8"
    assert b"RELAYCLIENT" not in environ


@pytest.mark.parametrize("content", [None, b"", b"not a cdb", bytes(4096)])
def test_rules_that_cannot_be_read_let_nobody_in(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "rules.cdb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Unreadable) as raised:
        environment(proxy(bytes(path)), {b"ADDR": b"192.0.2.7"})
    assert raised.value.why.startswith(b"unable to read $XCLIENTRULES: ")


def test_octets_are_those_of_addresses() -> None:
    assert octets(b"192.0.2.7") == bytes((192, 0, 2, 7))
    assert octets(b"::1") == bytes(15) + b"\1"
    assert [octets(text) for text in (None, b"", b"unknown", b"192.0.2", b"x.0.2.7", b"::x")] == [None] * 6
