"""control/policyservice: the addresses, the words after them, and lines that are not understood."""

import pytest

from qmail_smtpd.services.listing import LONGEST_PATH, MOST_SERVICES, parse


@pytest.mark.parametrize(
    ("line", "path", "host", "port"),
    [
        (b"unix:/run/postgrey.sock", b"/run/postgrey.sock", b"", 0),
        (b"unix:" + b"x" * LONGEST_PATH, b"x" * LONGEST_PATH, b"", 0),
        (b"inet:127.0.0.1:10023", b"", b"127.0.0.1", 10023),
        (b"inet:localhost:1", b"", b"localhost", 1),
        (b"inet:[::1]:65535", b"", b"::1", 65535),
        (b"inet:policy_1.example.org:12", b"", b"policy_1.example.org", 12),
    ],
)
def test_an_address_is_a_path_or_a_host_and_a_port(line: bytes, path: bytes, host: bytes, port: int) -> None:
    (service,) = parse([line])
    assert (service.path, service.host, service.port, service.fault) == (path, host, port, "")
    assert service.name == line


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"postgrey",
        b"unix:",
        b"unix:" + b"x" * (LONGEST_PATH + 1),
        b"inet:",
        b"inet:127.0.0.1",
        b"inet:127.0.0.1:",
        b"inet:127.0.0.1:0",
        b"inet:127.0.0.1:65536",
        b"inet:127.0.0.1:10023\r",
        b"inet::10023",
        b"inet:::1:10023",
        b"inet:[]:10023",
        b"inet:ho/st:10023",
        b"inet:h\xc3\xb6st:10023",
        b"inet:" + b"x" * 256 + b":10023",
        b"\xef\xbb\xbfinet:127.0.0.1:10023",
        b" inet:127.0.0.1:10023",
        b"inet:127.0.0.1:10023 # postgrey",
        b"inet:127.0.0.1:10023 relay norelay",
        b"inet:127.0.0.1:10023 relay and more",
        b"inet:127.0.0.1:10023 policy_context=a policy_context=b",
    ],
)
def test_a_line_that_is_not_understood_is_a_fault(line: bytes) -> None:
    (service,) = parse([line])
    assert service.fault
    assert service.concerns(True)
    assert service.concerns(False)


def test_words_after_the_address_select_clients_and_set_the_context() -> None:
    every, outside, own = parse([b"unix:a", b"unix:b \tnorelay", b"unix:c relay policy_context=submission"])
    assert [every.concerns(True), every.concerns(False)] == [True, True]
    assert [outside.concerns(True), outside.concerns(False)] == [False, True]
    assert [own.concerns(True), own.concerns(False)] == [True, False]
    assert [service.context for service in (every, outside, own)] == [b"", b"", b"submission"]


def test_more_services_than_the_limit_are_one_fault() -> None:
    services = parse([b"unix:a"] * 100)
    assert [bool(service.fault) for service in services] == [False] * MOST_SERVICES + [True]
