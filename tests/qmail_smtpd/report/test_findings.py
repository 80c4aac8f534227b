"""What looks wrong: each finding is there at its threshold, and not below it."""

import json

import pytest

from qmail_smtpd.report.findings import (
    LEAST_RECIPIENTS,
    MANY_FAILURES,
    MANY_HELOS,
    MANY_NAMES,
    MANY_NETWORKS,
    MANY_UNKNOWN,
    TIMES_USUAL,
    findings,
)
from qmail_smtpd.report.lines import Reader
from qmail_smtpd.report.tally import Tally

START = 1795478400
HOUR = 3600


def kinds(lines: list[str]) -> list[tuple[str, str]]:
    """Return the findings of a log: their kinds, and whom they name."""
    tally = Tally()
    reader = Reader(tally)
    reader.feed("".join(f"{line}\n" for line in lines).encode())
    assert reader.unknown == 0
    return [(finding.kind, finding.who) for finding in findings(tally)]


def at(seconds: float, text: str) -> str:
    return f"{START + seconds:.6f} {text}"


def queued(
    seconds: float, recipients: int, ip: str = "192.0.2.1", user: str = "", more: str = "", helo: str = "h"
) -> str:
    relay = f"relay=login user={user}" if user else "relay=address"
    facts = f"event=queued pid=7 ip={ip} helo={helo} sender=a@{helo}.test recipients={recipients} bytes=9 qp=1"
    return at(seconds, f"qmail-smtpd: {facts} {relay}{more}")


def login(seconds: float, ip: str, user: str = "joe", result: str = "yes") -> str:
    return at(seconds, f"qmail-smtpd: event=login pid=7 ip={ip} result={result} reason=x mechanism=PLAIN user={user}")


@pytest.mark.parametrize("user", ["joe", ""])
@pytest.mark.parametrize(("times", "found"), [(TIMES_USUAL, True), (TIMES_USUAL - 1, False)])
def test_an_hour_of_ten_times_the_usual(user: str, times: int, found: bool) -> None:
    usual = 6
    lines = [queued(hour * HOUR, usual, user=user) for hour in range(8)] + [queued(9 * HOUR, usual * times, user=user)]
    expected = [("unusual-relaying", user or "192.0.2.1")] if found else []
    assert kinds(lines) == expected


@pytest.mark.parametrize(("recipients", "found"), [(LEAST_RECIPIENTS, True), (LEAST_RECIPIENTS - 1, False)])
def test_a_login_without_a_usual_is_compared_with_the_others(recipients: int, found: bool) -> None:
    lines = [queued(hour * HOUR, 2, user=f"user{hour}") for hour in range(8)] + [
        queued(9 * HOUR, recipients, user="new")
    ]
    assert kinds(lines) == ([("unusual-relaying", "new")] if found else [])


def test_without_any_history_nothing_is_unusual() -> None:
    assert kinds([queued(0, 100_000, user="joe")]) == []


@pytest.mark.parametrize(("networks", "found"), [(MANY_NETWORKS, True), (MANY_NETWORKS - 1, False)])
def test_a_login_from_many_networks(networks: int, found: bool) -> None:
    lines = [login(number * HOUR, f"10.{number}.0.1") for number in range(networks)]
    lines += [login(number * HOUR, f"10.0.{number}.1", "ann") for number in range(20)]
    assert kinds(lines) == ([("many-networks", "joe")] if found else [])


def test_networks_of_several_days_do_not_add_up() -> None:
    assert kinds([login(number * 7 * HOUR, f"2001:db{number}::1") for number in range(20)]) == []
    assert kinds([login(number * 4 * HOUR, f"2001:db{number}::1") for number in range(20)]) != []


@pytest.mark.parametrize(("names", "found"), [(MANY_NAMES, True), (MANY_NAMES - 1, False)])
def test_a_client_that_tries_many_names_and_gets_in(names: int, found: bool) -> None:
    lines = [login(number, "192.0.2.7", f"user{number}", "no") for number in range(names)]
    lines += [login(50, "192.0.2.7", "joe", "no"), login(60, "192.0.2.7")]
    assert kinds(lines) == ([("guessed-login", "joe")] if found else [])


def test_a_user_who_mistypes_the_password_is_no_finding() -> None:
    assert kinds([*(login(number, "192.0.2.7", "joe", "no") for number in range(50)), login(60, "192.0.2.7")]) == []


def test_an_address_of_a_gateway_that_relays() -> None:
    assert kinds([queued(0, 1, "172.17.0.1", more=" via=gateway")]) == [("gateway", "172.17.0.1")]
    assert kinds([queued(0, 1, "172.17.0.1", "joe", more=" via=gateway")]) == []


@pytest.mark.parametrize(("names", "found"), [(MANY_HELOS, True), (MANY_HELOS - 1, False)])
def test_a_relaying_address_with_many_clients_behind_it(names: int, found: bool) -> None:
    lines = [queued(number, 1, "10.0.0.1", helo=f"mx{number}") for number in range(names)]
    assert kinds(lines) == ([("gateway", "10.0.0.1")] if found else [])


def refused(seconds: float, reason: str) -> str:
    return at(seconds, f"qmail-smtpd: event=refused pid=7 ip=192.0.2.9 helo=x sender= recipient=u@x reason={reason}")


@pytest.mark.parametrize("reason", ["unknown", "rcptcheck:no_such_user"])
@pytest.mark.parametrize(("count", "found"), [(MANY_UNKNOWN, True), (MANY_UNKNOWN - 1, False)])
def test_a_run_of_unknown_recipients(reason: str, count: int, found: bool) -> None:
    lines = [refused(number, reason) for number in range(count)]
    assert kinds(lines) == ([("unknown-recipients", "192.0.2.9")] if found else [])


def test_a_recipient_that_exists_or_an_hour_ends_a_run() -> None:
    good = at(15, "qmail-smtpd: event=accepted pid=7 ip=192.0.2.9 helo=x sender= recipient=u@x")
    first, second = ([refused(start + number, "unknown") for number in range(15)] for start in (0, 16))
    assert kinds([*first, *second]) != []
    assert kinds([*first, good, *second]) == []
    assert kinds([refused(number * HOUR, "unknown") for number in range(100)]) == []


@pytest.mark.parametrize(("count", "found"), [(MANY_FAILURES, 2), (MANY_FAILURES - 1, 0)])
def test_many_failed_logins_of_an_address_and_with_a_name(count: int, found: int) -> None:
    lines = [at(0, "qmail-popup: event=login pid=7 ip=192.0.2.9 result=no reason=password user=joe")] * count
    assert kinds(lines) == [("failed-logins", "192.0.2.9"), ("failed-logins", "joe")][:found]


def test_a_client_that_relays_by_the_rule_for_all() -> None:
    admitted = {"time": START, "event": "ok", "pid": 7, "connection": "x-1", "remote_ip": "192.0.2.1", "rule": ""}
    lines = [json.dumps(admitted), queued(1, 1)]
    assert kinds(lines) == [("open-relay", "192.0.2.1")]
    assert kinds([lines[0].replace('"rule": ""', '"rule": "192.0.2."'), lines[1]]) == []


def test_an_open_relay_a_full_server_and_a_log_with_holes() -> None:
    lines = [
        at(0, "qmail-smtpd: warning: control/rcpthosts is missing: open relay"),
        at(0, "tcpserver: status: 40/40"),
        at(0, "tcpserver: warning: dropped 7 log lines: nobody read them"),
    ]
    assert [kind for kind, _ in kinds(lines)] == ["open-relay", "full", "lost-lines"]
