"""Waiting for a descriptor, with real pipes. What a whole session makes of it is in test_limits."""

import os
from collections.abc import Iterator
from select import POLLIN, POLLOUT
from time import monotonic

import pytest

from qmail_smtpd.net.wire import ready


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_nothing_to_read(pipe: tuple[int, int]) -> None:
    assert not ready(pipe[0], POLLIN, 0.01)
    assert not ready(pipe[0], POLLIN, 10, monotonic() + 0.01)


def test_something_to_read(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"x")
    assert ready(pipe[0], POLLIN, 10)


def test_what_is_ready_now_is_ready_beyond_the_deadline(pipe: tuple[int, int]) -> None:
    """A reply that was pending when the session's time ran out is still written."""
    assert ready(pipe[1], POLLOUT, 10, monotonic() - 1)
    assert not ready(pipe[0], POLLIN, 10, monotonic() - 1)


def test_a_full_pipe_is_not_ready(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    while True:
        try:
            os.write(pipe[1], bytes(65536))
        except BlockingIOError:
            break
    assert not ready(pipe[1], POLLOUT, 0.01)
    os.read(pipe[0], 65536)
    assert ready(pipe[1], POLLOUT, 10)


def test_times_beyond_what_poll_can_count_are_no_error(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"x")
    assert ready(pipe[0], POLLIN, 1e18, 1e18)
