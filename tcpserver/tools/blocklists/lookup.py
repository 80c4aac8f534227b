"""Ask all lists about a client at once, within one time limit, and meanwhile notice a client that speaks first."""

import select
import time

from tcpserver.tools.blocklists.answers import TYPE_A, TYPE_TXT, Answer
from tcpserver.tools.blocklists.exchange import Exchange
from tcpserver.tools.blocklists.zones import Zone, is_error


class Lookup:
    """One list and one client. `is_listed`, `text` and `has_failed` count when it `is_over`.

    The list is asked for an A record first: that there is no such name is the answer about most clients. If an A
    record counts, a block list is asked for the TXT record as well. So is one without a pattern if the name exists
    without an A record: only the TXT record lists a client for 0.88.
    """

    __slots__ = (
        "answered_otherwise",
        "exchange",
        "has_failed",
        "is_listed",
        "is_over",
        "name",
        "servers",
        "text",
        "zone",
    )

    def __init__(self, zone: Zone, client: str, servers: list[str], now: float) -> None:
        self.zone, self.servers = zone, servers
        self.name = f"{client}.{zone.name}"
        self.is_listed = self.has_failed = self.is_over = False
        self.text = b""
        self.answered_otherwise: bytes | None = None  # an address that lists nobody
        self.exchange = Exchange(self.name, TYPE_A, servers, now)

    @property
    def lack(self) -> OSError | None:
        """Why this system could not ask the list, if it has failed because of that."""
        return self.exchange.lack if self.has_failed else None

    def advance(self, now: float) -> None:
        """Go on, if the exchange is over."""
        while self.exchange.is_over and not self.is_over:
            answer = self.exchange.answer
            if self.exchange.kind == TYPE_TXT:
                self.take_text(answer)
            elif answer is None:
                self.has_failed = self.is_over = True
            else:
                self.take_addresses(answer, now)

    def take_addresses(self, answer: Answer, now: float) -> None:
        """Take the answer to the first question, with records or without."""
        self.is_listed = any(self.zone.counts(address) for address in answer.records)
        others = [address for address in answer.records if not self.zone.counts(address)]
        unexpected = [address for address in others if is_error(address) or address[0] != 127]
        self.answered_otherwise = unexpected[0] if unexpected else None
        may_be_text = answer.exists and not answer.records and not self.zone.pattern
        if self.zone.allows or not (self.is_listed or may_be_text):
            self.is_over = True
        else:
            self.exchange = Exchange(self.name, TYPE_TXT, self.servers, now)

    def take_text(self, answer: Answer | None) -> None:
        """Take the reason for the listing, or None if there was no answer."""
        self.is_over = True
        self.text = b"".join(answer.records) if answer else b""
        if not self.is_listed:
            self.has_failed = answer is None
            self.is_listed = bool(self.text)

    def give_up(self) -> None:
        """End the look-up, because the time is over. A client with an A record stays listed."""
        if not self.is_over:
            self.exchange.fail()
            self.take_text(None)


def ask(
    zones: list[Zone], client: str, servers: list[str], seconds: float, delay: float = 0, watched: int | None = None
) -> "list[Lookup] | None":
    """Ask the lists about a client, and return what they answer in `seconds` at most, but after `delay` at least.

    None if the descriptor `watched` became readable before that.
    """
    now = time.monotonic()
    deadline, earliest = now + seconds, now + delay
    lookups = [Lookup(zone, client, servers, now) for zone in zones]
    try:
        while True:
            for lookup in lookups:
                lookup.advance(now)
            running = [lookup for lookup in lookups if not lookup.is_over] if now < deadline else []
            if not running and now >= earliest:
                return lookups
            dues = [min(lookup.exchange.due, deadline) for lookup in running] or [earliest]
            if wait(running, watched, min(dues) - now):
                return None
            now = time.monotonic()
            for lookup in running:
                if lookup.exchange.due <= now and not lookup.exchange.is_over:
                    lookup.exchange.send(now)
    finally:
        for lookup in lookups:
            lookup.give_up()


def wait(running: list[Lookup], watched: int | None, seconds: float) -> bool:
    """Wait for an answer, at most so long, and act on it. Return whether the watched descriptor is readable."""
    poller = select.poll()
    owners: dict[int, Exchange] = {}
    for lookup in running:
        for descriptor, events in lookup.exchange.interests():
            poller.register(descriptor, events)
            owners[descriptor] = lookup.exchange
    if watched is not None:
        poller.register(watched, select.POLLIN)
    ready = [descriptor for descriptor, _ in poller.poll(max(0.0, seconds) * 1000 + 1)]
    now = time.monotonic()
    for descriptor in ready:
        if descriptor in owners:
            owners[descriptor].proceed(descriptor, now)
    return watched in ready
