"""mconnect, tcpcat, who@, date@, finger@ and http@ against a server that answers; and the same as the originals."""

import subprocess

import pytest

from tests.kit.answering import Answering
from tests.kit.pairs import both, run
from tests.kit.server import PATIENCE, needs_root
from tests.kit.support import free_port, own_address, script

ANSWERS = [b"", b"hello\r\n", b"a\rb\r\r\n\n\tlast\r", bytes(range(256)), b"\xe4\n" * 50_000]
PAGES = [
    b"",
    b"HTTP/1.0 200 OK\r\nA: b\r\n\r\n<p>\r\n\r\nhello\n\nend",
    b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100_000 + b"\r\n",
    b"no headers",
    b"\r\nbody\r\n",
]


def at_once(_: bytes) -> bool:
    return True


def after_line(received: bytes) -> bool:
    return received.endswith(b"\n")


def after_headers(received: bytes) -> bool:
    return received.endswith(b"\r\n\r\n")


def after_quit(received: bytes) -> bool:
    return received.endswith(b"QUIT\r\n")


@pytest.mark.peer
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: repr(answer[:10]))
def test_tcpcat_prints_what_the_server_sends(answer: bytes) -> None:
    with Answering(answer, at_once) as server:
        ours, original = both("tcpcat", ["127.0.0.1", str(server.port)])
    assert ours == original == (answer, b"", 0)


@pytest.mark.peer
@pytest.mark.parametrize("name", ["mconnect", "tcpcat", "http@"])
def test_a_refused_connection_is_reported_as_by_the_original(name: str) -> None:
    port = str(free_port())
    ours, original = both(name, ["127.0.0.1", *(["page"] if name == "http@" else []), port])
    assert ours == original
    assert ours.exit == (0 if name == "http@" else 111)


@pytest.mark.peer
def test_mconnect_adds_cr_and_ends_with_the_connection() -> None:
    with Answering(b"220 hi\r\n250 ok\r\n", after_quit) as server:
        ours, original = both("mconnect", ["127.0.0.1", str(server.port)], b"HELO x\r\nNOOP\nQUIT\n")
    assert ours == original == (b"220 hi\r\n250 ok\r\n", b"", 0)
    assert server.requests == [b"HELO x\r\r\nNOOP\r\nQUIT\r\n"] * 2


def test_mconnect_goes_on_reading_after_the_end_of_its_input() -> None:
    with Answering(b"late\r\n", after_quit) as server:
        done = subprocess.run(
            [script("mconnect"), "127.0.0.1", str(server.port)],
            input=b"QUIT\n",
            capture_output=True,
            timeout=PATIENCE,
        )
    assert (done.stdout, done.returncode) == (b"late\r\n", 0)


def test_mconnect_prints_what_a_server_sends_that_reads_nothing() -> None:
    with Answering(b"554 no\r\n" * 1000, at_once) as server:
        done = run(script("mconnect"), ["127.0.0.1", str(server.port)])
    assert done == (b"554 no\r\n" * 1000, b"", 0)


@pytest.mark.peer
@pytest.mark.parametrize("page", [[], [""], ["a/b?c=d"]], ids=["no page", "empty", "page"])
@pytest.mark.parametrize("answer", PAGES, ids=lambda answer: repr(answer[:10]))
def test_http_prints_the_body(answer: bytes, page: list[str]) -> None:
    with Answering(answer, after_headers) as server:
        ours, original = both("http@", ["127.0.0.1", *(page or [""]), str(server.port)])
    assert ours == original
    assert server.requests[0] == server.requests[1]
    assert server.requests[0].startswith(b"GET /" + "".join(page).encode() + b" HTTP/1.0\r\nHost: 127.0.0.1:")


@needs_root
@pytest.mark.peer
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: repr(answer[:10]))
@pytest.mark.parametrize(("name", "port"), [("who@", 11), ("date@", 13), ("finger@", 79)])
def test_unprintable_bytes_of_an_answer_are_made_visible(name: str, port: int, answer: bytes) -> None:
    host = own_address(0)
    with Answering(answer, after_line if name == "finger@" else at_once, host, port) as server:
        ours, original = both(name, [host, "joe"])
    assert ours == original
    assert server.requests == [b"joe\r\n" if name == "finger@" else b""] * 2


@needs_root
@pytest.mark.peer
def test_finger_without_a_user_sends_an_empty_line() -> None:
    host = own_address(0)
    with Answering(b"everybody\r\n", after_line, host, 79) as server:
        ours, original = both("finger@", [host])
    assert ours == original == (b"everybody\n", b"", 0)
    assert server.requests == [b"\r\n"] * 2
