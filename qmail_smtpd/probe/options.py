"""The command line's options, checked and converted to names, pace, probes and mailbox. Does no I/O."""

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from math import isnan
from typing import NamedTuple

from qmail_smtpd.probe.catalogue import address_probes
from qmail_smtpd.probe.clients import BadClient, Client, parse
from qmail_smtpd.probe.connection import Pace
from qmail_smtpd.probe.home import LAST_OUTSIDE_DOMAIN, OUTSIDE_DOMAINS, Home
from qmail_smtpd.probe.judge import PLAIN_BOUNCE, PLAIN_CASE
from qmail_smtpd.probe.mailbox import Mailbox
from qmail_smtpd.probe.network import host_name
from qmail_smtpd.probe.probes import LETTERS, Names, Probe, is_name
from qmail_smtpd.probe.text import octets, printable
from qmail_smtpd.probe.tricks import trick_probes
from qmail_smtpd.probe.vantage import BadInside, Inside

PIPE_PACE = Pace(pause=0.0, again=0.2, per_connection=100)  # a local process needs no pauses
LOCAL_PART = LETTERS + b"_+="
PLAIN = (PLAIN_CASE, PLAIN_BOUNCE)
RESERVED_OUTSIDE = (
    "the outside domain is a reserved one, which receives no mail: a server that relays only to domains with a mail "
    "server refuses it as well. Name such a domain with --outside"
)


class BadUse(ValueError):
    """A usage error. The text says what is wrong."""


class Options(NamedTuple):
    """The options as they were typed."""

    pipe: bool
    rules: str | None
    home: str | None
    source: str | None
    client: tuple[str, ...]
    from_ip: str | None
    as_outside: bool
    inside: tuple[str, ...]
    listed: tuple[str, ...]
    outside: str | None
    auth: bool
    send: str | None
    helo: str | None
    only: tuple[str, ...]
    pause: float | None
    timeout: float | None
    again: float | None
    total: float | None
    words: tuple[str, ...]

    def check(self) -> None:
        """Refuse options that contradict each other. Raise BadUse."""
        if self.pipe and self.rules:
            raise BadUse("--pipe or --rules, not both")
        if self.rules and not self.home:
            raise BadUse("--rules needs --home, the directory with control/rcpthosts")
        if self.rules and (self.from_ip or self.send):
            raise BadUse("--rules excludes --from-ip and --send: name clients with --client")
        if self.rules and self.as_outside and not self.client:
            raise BadUse("--rules with --as-outside needs --client, the clients that are outside")
        if not self.rules and (self.client or self.source):
            raise BadUse("--client and --source need --rules")
        if not self.rules and not self.words:
            raise BadUse("HOST[:PORT], or --pipe PROGRAM, or --rules CDB --home DIR")
        if any(
            seconds is not None and isnan(seconds) for seconds in (self.pause, self.timeout, self.again, self.total)
        ):
            raise BadUse("--pause, --timeout, --again and --total need seconds")
        if not self.pipe and not self.rules and len(self.words) > 1:
            raise BadUse("one HOST at a time")

    def pace(self) -> Pace:
        """Return the times: the given ones, or else the defaults for the mode."""
        pace = PIPE_PACE if self.pipe or self.rules else Pace()
        return pace._replace(
            pause=pace.pause if self.pause is None else self.pause,
            timeout=pace.timeout if self.timeout is None else self.timeout,
            again=pace.again if self.again is None else self.again,
            total=pace.total if self.total is None else self.total,
        )

    def inside_clients(self) -> Inside:
        """Return the clients that are inside. Raise BadUse."""
        try:
            return Inside(self.inside)
        except BadInside as bad:
            raise BadUse(f"--inside: {bad}") from bad

    def clients(self) -> list[Client]:
        """Return the clients that were named. Raise BadUse."""
        try:
            return [parse(text) for text in self.client]
        except BadClient as bad:
            raise BadUse(str(bad)) from bad

    def hello(self) -> bytes:
        """Return the name for EHLO, which identifies relaytest. Raise BadUse."""
        name = octets(self.helo) if self.helo else b"relaytest." + octets(host_name())
        if self.helo and not is_name(name):
            raise BadUse("--helo: not a name")
        return name if is_name(name) else b"relaytest.invalid"

    def candidates(self, home: Home | None) -> list[bytes]:
        """Return listed domains, or addresses in them: the given ones, or else the home's. Raise BadUse."""
        for word in self.listed:
            if not (is_address(word) if "@" in word else is_name(octets(word))):
                raise BadUse(f"--listed: neither a domain nor an address: {printable(octets(word))}")
        return [octets(word) for word in self.listed] or (home.listed() if home else [])

    def names(self, home: Home | None, listed: Sequence[bytes]) -> Names:
        """Return the names for the probes. Raise BadUse if the outside domain is listed."""
        domains = {word.rpartition(b"@")[2].lower() for word in listed}
        names = Names()
        if self.is_send_outside(domains, home):
            user, _, domain = octets(self.send or "").rpartition(b"@")
            names = names._replace(user=user, out=domain.lower())
        elif self.outside:
            names = names._replace(out=octets(self.outside).lower())
        else:
            names = names._replace(out=self.default_outside(domains, home))
        if self.send and self.outside and names.out != octets(self.outside).lower():
            raise BadUse("--send already names the outside domain")
        if not is_name(names.out):
            raise BadUse(f"not a domain: {printable(names.out)}")
        if names.out in domains or (home and home.accepts(names.out)):
            raise BadUse(f"{names.out.decode()} is listed: it is not outside. Name another with --outside")
        return names

    def default_outside(self, domains: set[bytes], home: Home | None) -> bytes:
        """Return a reserved domain that is not listed. A test site may list all of them but the last."""
        free = (domain for domain in OUTSIDE_DOMAINS if domain not in domains and not (home and home.accepts(domain)))
        return next(free, LAST_OUTSIDE_DOMAIN)

    def is_send_outside(self, domains: set[bytes], home: Home | None) -> bool:
        """Whether --send names an outside address, and not one at the server's own domain. Raise BadUse."""
        if not self.send:
            return False
        if not is_address(self.send):
            raise BadUse("--send needs an address like me@example.org")
        if not domains:
            raise BadUse("--send needs --listed, the server's own domain")
        domain = octets(self.send).rpartition(b"@")[2].lower()
        return domain not in domains and not (home and home.accepts(domain))

    def mailbox(self, home: Home | None, listed: Sequence[bytes], server: str, user: str) -> Mailbox | None:
        """Return the addresses for messages: outside for relay probes, inside for smuggling probes."""
        if not self.send:
            return None
        domains = {word.rpartition(b"@")[2].lower() for word in listed}
        outside = self.is_send_outside(domains, home)
        mailboxes = [word for word in listed if b"@" in word]
        inside = mailboxes[0] if outside and mailboxes else b"" if outside else octets(self.send)
        return Mailbox(self.send if outside else "", inside, server, user, os.uname().nodename)

    def notes(self, mailbox: Mailbox | None) -> tuple[str, ...]:
        """Return remarks for the reader of the report."""
        notes = []
        if self.only:
            patterns = ", ".join([PLAIN_CASE, *(printable(octets(pattern)) for pattern in self.only)])
            notes.append(f"only these probes were run: {patterns}")
        if mailbox:
            where = " and ".join(printable(a) for a in (octets(mailbox.address), mailbox.inside) if a)
            notes.append(f"messages were sent to {where} if it was accepted, at most one for each kind of probe")
            if not mailbox.inside:
                notes.append("smuggling was not tried: it needs --listed USER@DOMAIN, a mailbox of the server")
        if not (self.pipe or self.rules or self.outside or (mailbox and mailbox.address)):
            notes.append(RESERVED_OUTSIDE)
        return tuple(notes)

    def probes(self, mailbox: Mailbox | None) -> list[Probe]:
        """Return the selected probes of the catalogue. Raise BadUse if a pattern matches none."""
        enabled = {""} | ({"auth"} if self.auth else set()) | ({"send"} if mailbox and mailbox.inside else set())
        probes = [probe for probe in (*address_probes(), *trick_probes()) if probe.needs in enabled]
        for pattern in self.only:
            if not any(fnmatchcase(probe.name, pattern) for probe in probes):
                raise BadUse(f"--only: no probe matches {printable(octets(pattern))} (see --list)")
        patterns = (*self.only, PLAIN_CASE) if self.only else ("*",)  # the verdict needs the plain case
        return [probe for probe in probes if any(fnmatchcase(probe.name, pattern) for pattern in patterns)]

    def plain(self) -> list[Probe]:
        """Return the probes of the plain case, which show at once whether a client may relay."""
        return [probe for probe in address_probes() if probe.name in PLAIN]


def is_address(text: str) -> bool:
    """Whether the text is user@domain, with characters that need no quoting anywhere."""
    user, at, domain = octets(text).rpartition(b"@")
    return bool(at and user) and not user.strip(LOCAL_PART) and is_name(domain)
