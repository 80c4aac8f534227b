"""What may be an attack: many networks of a login, guessed passwords, runs of unknown recipients. Pure, bounded."""

from itertools import islice
from typing import TypeVar

from qmail_smtpd.report.networks import wide_network

K = TypeVar("K")
V = TypeVar("V")

DAY = 86400
HOUR = 3600
MOST_USERS = 20_000
MOST_NETWORKS = 64  # of one user within a day
MOST_CLIENTS = 20_000  # with unknown recipients, or with failed logins
MOST_NAMES = 64  # that one client has tried
MOST_GUESSES = 1_000


class User:
    """One login: `networks` have the time of the latest login from each, `most` those of the worst day."""

    __slots__ = ("failures", "logins", "most", "networks", "since", "until")

    def __init__(self) -> None:
        self.logins = self.failures = 0
        self.networks: dict[bytes, float] = {}
        self.most: tuple[bytes, ...] = ()
        self.since = self.until = 0.0


class Run:
    """Unknown recipients of a client without a good one, or an hour, between: the present run and the longest."""

    __slots__ = ("last", "length", "longest", "until")

    def __init__(self) -> None:
        self.length = self.longest = 0
        self.last = self.until = 0.0


class Suspects:
    """Users and clients by name and address. Of too many, the oldest are forgotten."""

    __slots__ = ("failing", "guessed", "runs", "users")

    def __init__(self) -> None:
        self.users: dict[bytes, User] = {}
        self.runs: dict[bytes, Run] = {}
        self.failing: dict[bytes, set[bytes]] = {}  # the names with which each client has failed
        self.guessed: dict[
            tuple[bytes, bytes], tuple[int, float]
        ] = {}  # client and user: other names tried before, when

    def user(self, name: bytes) -> User:
        """Return what is known about a login."""
        found = self.users.get(name)
        if found is None:
            found = make_room(self.users, MOST_USERS)[name] = User()
        return found

    def logged_in(self, name: bytes, address: bytes, when: float | None) -> None:
        """Note a successful login."""
        time = when or 0.0
        user = self.user(name)
        user.logins += 1
        user.networks.pop(network := wide_network(address), None)
        make_room(user.networks, MOST_NETWORKS)[network] = time
        if len(user.networks) > len(user.most):
            recent = {key: seen for key, seen in user.networks.items() if abs(time - seen) < DAY}
            if len(recent) < len(user.networks):
                user.networks = recent
            if len(recent) > len(user.most):
                user.most, user.since, user.until = tuple(recent), min(recent.values()), time
        tried = self.failing.pop(address, None)
        others = len(tried - {name}) if tried else 0
        if others > self.guessed.get((address, name), (0, 0.0))[0] and len(self.guessed) < MOST_GUESSES:
            self.guessed[address, name] = others, time

    def failed(self, name: bytes, address: bytes) -> None:
        """Note a failed login."""
        if name in self.users:
            self.users[name].failures += 1
        names = self.failing.get(address)
        if names is None:
            names = make_room(self.failing, MOST_CLIENTS)[address] = set()
        if len(names) < MOST_NAMES:
            names.add(name)

    def unknown(self, address: bytes, when: float | None) -> None:
        """Note a recipient that does not exist."""
        time = when or 0.0
        run = self.runs.get(address)
        if run is None:
            run = make_room(self.runs, MOST_CLIENTS)[address] = Run()
        run.length = run.length + 1 if time - run.last < HOUR else 1
        run.last = time
        if run.length > run.longest:
            run.longest, run.until = run.length, time

    def known(self, address: bytes) -> None:
        """Note a recipient that exists, which ends a run."""
        run = self.runs.get(address)
        if run is not None:
            run.length = 0


def make_room(kept: dict[K, V], most: int) -> dict[K, V]:
    """Forget the oldest quarter of a full dictionary, and return it.

    Not one by one: to find the first key, Python passes over each deleted entry before it.
    """
    if len(kept) >= most:
        for key in list(islice(kept, max(most // 4, 1))):
            del kept[key]
    return kept
