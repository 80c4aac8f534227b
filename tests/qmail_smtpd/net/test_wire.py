"""Waiting for a descriptor, with real pipes. The timeouts of whole sessions are in smtp/test_limits.py."""

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


def test_a_descriptor_without_input_is_not_ready(pipe: tuple[int, int]) -> None:
    assert not ready(pipe[0], POLLIN, 0.01)
    assert not ready(pipe[0], POLLIN, 10, monotonic() + 0.01)


def test_a_descriptor_with_input_is_ready(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"x")
    assert ready(pipe[0], POLLIN, 10)


def test_the_deadline_does_not_hide_a_descriptor_that_is_ready_now(pipe: tuple[int, int]) -> None:
    """A reply that was pending at the deadline is still written."""
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


def test_a_timeout_longer_than_poll_allows_is_no_error(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"x")
    assert ready(pipe[0], POLLIN, 1e18, 1e18)
