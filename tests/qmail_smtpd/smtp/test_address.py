"""Address parsing: as forgiving as the original, for any input."""

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qmail_smtpd.smtp.address import declared_size, exceeds, ipv6_literal_octets, ipv6_octets, literal_octets, parse
from tests.kit.machine import address_of
from tests.kit.support import times


@pytest.mark.parametrize(
    ("argument", "address"),
    [
        (b"FROM:<a@b.test>", b"a@b.test"),
        (b"anything<a@b.test>junk", b"a@b.test"),
        (b"FROM:<>", b""),
        (b"", b""),
        (b"FROM a@b.test", b""),  # neither `<` nor `:`
        (b"FROM:a@b.test SIZE=1", b"a@b.test"),
        (b"FROM:   a@b.test", b"a@b.test"),
        (b"FROM:\ta@b.test", b"\ta@b.test"),
        (b"TO:<a@b.test SIZE=10", b"a@b.test SIZE=10"),  # no `>`
        (b"TO:<<a@b.test>>", b"<a@b.test"),
        (b"TO:<@r.test:a@b.test>", b"a@b.test"),
        (b"TO:<@r.test,@s.test:a@b.test>", b"a@b.test"),
        (b"TO:<@evil.test>", b""),  # a source route without a colon: nothing is left
        (b"TO:@r.test:a@b.test", b"a@b.test"),
        (b'TO:<"a b"@c.test>', b"a b@c.test"),
        (b'TO:<"a>b"@c.test>d', b"a>b@c.test"),
        (b'TO:<a\\"b@c.test>', b'a"b@c.test'),
        (b'TO:<"a\\>b"@c.test>', b"a>b@c.test"),
        (b"TO:<a\\\\b@c.test>", b"a\\b@c.test"),
        (b'TO:<"a@b.test>', b"a@b.test>"),  # an open quote
        (b"TO:<a@b.test\\", b"a@b.test"),
        (b'TO:<""@evil.test>', b"@evil.test"),
        (b'TO:"a b"@c.test d', b"a b@c.test"),
    ],
)
def test_the_address_of_an_argument(argument: bytes, address: bytes) -> None:
    assert parse(argument)[0] == address


@pytest.mark.parametrize(
    ("argument", "parameters"),
    [
        (b"FROM:<a@b> SIZE=1 BODY=8BITMIME", b" SIZE=1 BODY=8BITMIME"),
        (b'FROM:<"a>"@b>SIZE=1', b"SIZE=1"),
        (b"FROM:a@b SIZE=1", b""),  # parameters must follow a `>`
        (b"FROM:<a@b SIZE=1", b""),
        (b'FROM:<"a@b> SIZE=1', b""),
        (b"FROM:<a> SIZE=2>", b" SIZE=2>"),
    ],
)
def test_the_parameters_are_the_text_after_the_bracket(argument: bytes, parameters: bytes) -> None:
    assert parse(argument)[1] == parameters


@given(st.lists(st.sampled_from([b"<", b">", b":", b"@", b" ", b'"', b"\\", b"a", b"\r", b"\xff"])).map(b"".join))
@settings(max_examples=times(200))
def test_any_argument_has_the_address_that_a_byte_machine_finds(argument: bytes) -> None:
    address, parameters = parse(argument)
    assert address == address_of(argument)
    assert argument.endswith(parameters)


@pytest.mark.parametrize(
    ("address", "octets"),
    [
        (b"u@[127.0.0.1]", (127, 0, 0, 1)),
        (b"u@x@[127.0.0.1]", (127, 0, 0, 1)),
        (b"u@[383.256.512.1]", (127, 0, 0, 1)),  # each modulo 256
        (b"u@[99999999999999999999999999999999999.0.0.1]", (255, 0, 0, 1)),
        (b"u@[010.0.0.1]", (10, 0, 0, 1)),
        (b"u@[127.1]", None),
        (b"u@[127.0.0.1.]", None),
        (b"u@[127.0.0.1]x", None),
        (b"u@[127.0.0.1", None),
        (b"u@[127.0.0.-1]", None),
        (b"u@[127.0.0.]", None),
        (b"u@[\xd9\xa1.0.0.1]", None),
        (b"u@127.0.0.1", None),
        (b"u@[IPv6:::1]", None),
        (b"[127.0.0.1]", None),
        (b"[127.0.0.1]@a", None),
    ],
)
def test_an_address_literal_gives_its_octets(address: bytes, octets: tuple[int, ...] | None) -> None:
    assert literal_octets(address) == (None if octets is None else bytes(octets))


@pytest.mark.parametrize(
    ("parameters", "size"),
    [
        (b" SIZE=1000", b"1000"),
        (b"size=0010 BODY=8BITMIME", b"10"),
        (b" SIZE=0", b""),
        (b" SIZE=-1", b""),
        (b" SIZE=1k", b""),
        (b" SIZE=", b""),
        (b" XSIZE=5 SIZE", b""),
        (b" SIZE=1 SIZE=2", b"2"),
        (b"\tSIZE=1", b""),
    ],
)
def test_the_last_valid_size_counts(parameters: bytes, size: bytes) -> None:
    assert declared_size(parameters) == size


@pytest.mark.parametrize("limit", [1, 9, 10, 4294967295])
def test_a_number_of_any_length_is_compared_with_the_limit(limit: int) -> None:
    assert not exceeds(b"", limit)
    assert not exceeds(b"%d" % limit, limit)
    assert exceeds(b"%d" % (limit + 1), limit)
    assert exceeds(b"9" * 8000, limit)


@pytest.mark.parametrize(
    ("domain", "octets"),
    [
        (b"[IPv6:::1]", bytes(15) + b"\1"),
        (b"[ipv6:2001:DB8::25]", bytes.fromhex("20010db8000000000000000000000025")),
        (b"[IPv6:::ffff:127.0.0.1]", bytes((127, 0, 0, 1))),
        *((text, None) for text in (b"[IPv6:]", b"[IPv6:1]", b"[::1]", b"[IPv6:::1%lo]", b"[IPv6: ::1]", b"[IPv6:::1")),
    ],
)
def test_an_ipv6_literal_gives_its_octets(domain: bytes, octets: bytes | None) -> None:
    assert ipv6_literal_octets(b"u@" + domain) == octets


TEXTS = st.lists(
    st.sampled_from([b":", b"::", b"0", b"ffff", b"1.2.3.4", b"256", b".", b"g", b"00001", b"db8"]), max_size=17
).map(b"".join)


@pytest.mark.slow
@given(TEXTS | st.ip_addresses(v=6).map(lambda address: str(address).encode()))
@settings(max_examples=times(500))
def test_ipv6_addresses_are_those_of_inet_pton(text: bytes) -> None:
    try:
        wanted = socket.inet_pton(socket.AF_INET6, text.decode())
    except OSError:
        wanted = None
    mapped = bytes(10) + b"\xff\xff"
    assert ipv6_octets(text) == (wanted[12:] if wanted is not None and wanted.startswith(mapped) else wanted)
