"""The sliding window: never more than the limit in any time of its length, and its error."""

from hypothesis import given, settings
from hypothesis import strategies as st

from qmail_smtpd.relay import window
from qmail_smtpd.relay.window import BUCKETS, SIZE
from tests.kit.support import times

START = 1_795_500_000.0


class Counted:
    """A window, and every count in it with its moment."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self.bytes = window.empty(seconds)
        self.events: list[float] = []

    def used(self, now: float) -> int:
        return window.used(self.bytes, window.bucket_at(now, self.seconds))

    def add(self, now: float) -> None:
        offset, slot = window.added(self.bytes, window.bucket_at(now, self.seconds), 1)
        self.bytes = self.bytes[:offset] + slot + self.bytes[offset + len(slot) :]
        self.events.append(now)

    def between(self, first: float, last: float) -> int:
        return sum(first < moment <= last for moment in self.events)


@settings(max_examples=times(200))
@given(
    seconds=st.sampled_from([1, 7, 60, 3600, 86400, 10**9]),
    limit=st.integers(0, 20),
    steps=st.lists(st.floats(0, 1.2), max_size=80),
)
def test_no_window_has_more_than_the_limit_and_none_is_refused_after_61_sixtieths(
    seconds: int, limit: int, steps: list[float]
) -> None:
    counted, now = Counted(seconds), START
    for step in steps:
        now += step * step * seconds / 10
        if counted.used(now) < limit:
            counted.add(now)
            assert counted.between(now - seconds * 0.999999, now) <= limit
        else:
            assert counted.between(now - seconds * (BUCKETS + 1.000001) / BUCKETS, now) >= limit


def test_a_count_is_remembered_for_a_window_and_forgotten_after_another_sixtieth() -> None:
    counted = Counted(3600)
    counted.add(START)
    for age, expected in ((0, 1), (3599, 1), (3660, 0), (7200, 0), (10**8, 0)):
        assert counted.used(START + age) == expected, age


def test_a_clock_that_is_set_back_forgives_nothing_but_a_wrong_one_does() -> None:
    counted = Counted(3600)
    counted.add(START)
    assert counted.used(START - 3000) == 1
    assert counted.used(START - 10**6) == 0


def test_a_new_bucket_takes_the_slot_of_an_old_one() -> None:
    counted = Counted(60)
    for second in range(1000):
        counted.add(START + second)
        assert counted.used(START + second) == min(second + 1, BUCKETS + 1)
    assert len(counted.bytes) == SIZE


def test_the_windows_of_a_file_are_found_by_their_length() -> None:
    content = window.empty(60) + window.empty(3600)
    assert window.find(content, 3600) == SIZE
    assert window.find(content, 7) == 2 * SIZE
    assert window.find(content + b"\0" * 5, 7) == 2 * SIZE  # after a window that was only partly written
    assert window.find(b"1 192.0.2.1 pop3".ljust(SIZE), 7) is None
    assert [seconds for seconds, _ in window.windows(content)] == [60, 3600]
