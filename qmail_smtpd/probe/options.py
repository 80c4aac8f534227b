"""What the command line says, checked: options -> names, pace, probes, mailbox. Touches nothing."""

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from math import isnan
from typing import NamedTuple

from qmail_smtpd.probe.catalogue import address_probes
from qmail_smtpd.probe.clients import BadClient, Client, parse
from qmail_smtpd.probe.connection import Pace
from qmail_smtpd.probe.home import LAST_OUTSIDER, OUTSIDERS, Home
from qmail_smtpd.probe.judge import PLAIN_BOUNCE, PLAINEST
from qmail_smtpd.probe.mailbox import Mailbox
from qmail_smtpd.probe.network import host_name
from qmail_smtpd.probe.probes import LETTERS, Names, Probe, is_name
from qmail_smtpd.probe.text import octets, shown
from qmail_smtpd.probe.tricks import trick_probes
from qmail_smtpd.probe.vantage import BadInside, Inside

PIPE_PACE = Pace(pause=0.0, again=0.2, per_connection=100)  # a process of one's own needs no sparing
LOCAL_PART = LETTERS + b"_+="
PLAIN = (PLAINEST, PLAIN_BOUNCE)


class BadUse(ValueError):
    """What is wrong with the words."""


class Options(NamedTuple):
    """The words, as they were typed."""

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
        """Refuse what does not go together. Raises BadUse."""
        if self.pipe and self.rules:
            raise BadUse("--pipe or --rules, not both")
        if self.rules and not self.home:
            raise BadUse("--rules wants --home: where control/rcpthosts is")
        if self.rules and (self.from_ip or self.as_outside or self.send):
            raise BadUse("--rules goes with neither --from-ip nor --as-outside nor --send: name clients with --client")
        if not self.rules and (self.client or self.source):
            raise BadUse("--client and --source go with --rules")
        if not self.rules and not self.words:
            raise BadUse("HOST[:PORT], or --pipe PROGRAM, or --rules CDB --home DIR")
        if any(
            seconds is not None and isnan(seconds) for seconds in (self.pause, self.timeout, self.again, self.total)
        ):
            raise BadUse("--pause, --timeout, --again and --total want seconds")
        if not self.pipe and not self.rules and len(self.words) > 1:
            raise BadUse("one HOST at a time")

    def pace(self) -> Pace:
        """The times, by kind of server unless they are given."""
        pace = PIPE_PACE if self.pipe or self.rules else Pace()
        return pace._replace(
            pause=pace.pause if self.pause is None else self.pause,
            timeout=pace.timeout if self.timeout is None else self.timeout,
            again=pace.again if self.again is None else self.again,
            total=pace.total if self.total is None else self.total,
        )

    def own(self) -> Inside:
        """Who is inside. Raises BadUse."""
        try:
            return Inside(self.inside)
        except BadInside as bad:
            raise BadUse(f"--inside: {bad}") from bad

    def clients(self) -> list[Client]:
        """The clients that were named. Raises BadUse."""
        try:
            return [parse(text) for text in self.client]
        except BadClient as bad:
            raise BadUse(str(bad)) from bad

    def hello(self) -> bytes:
        """Our name in EHLO, which says what this is. Raises BadUse."""
        name = octets(self.helo) if self.helo else b"relaytest." + octets(host_name())
        if self.helo and not is_name(name):
            raise BadUse("--helo: not a name")
        return name if is_name(name) else b"relaytest.invalid"

    def candidates(self, home: Home | None) -> list[bytes]:
        """Listed domains, or addresses at such: as given, else as the home has them. Raises BadUse."""
        for word in self.listed:
            if not (is_address(word) if "@" in word else is_name(octets(word))):
                raise BadUse(f"--listed: neither a domain nor an address: {shown(octets(word))}")
        return [octets(word) for word in self.listed] or (home.listed() if home else [])

    def names(self, home: Home | None, listed: Sequence[bytes]) -> Names:
        """What is asked about. Raises BadUse where the outside is not outside."""
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
            raise BadUse("--send names the outside domain already")
        if not is_name(names.out):
            raise BadUse(f"not a domain: {shown(names.out)}")
        if names.out in domains or (home and home.takes(names.out)):
            raise BadUse(f"{names.out.decode()} is listed: it is not outside. Name another with --outside")
        return names

    def default_outside(self, domains: set[bytes], home: Home | None) -> bytes:
        """A domain of nobody's that is not listed; a test site may have listed all of them but the last."""
        free = (domain for domain in OUTSIDERS if domain not in domains and not (home and home.takes(domain)))
        return next(free, LAST_OUTSIDER)

    def is_send_outside(self, domains: set[bytes], home: Home | None) -> bool:
        """Whether --send names somebody outside; else it is a mailbox of the server's own. Raises BadUse."""
        if not self.send:
            return False
        if not is_address(self.send):
            raise BadUse("--send: an address like me@example.org")
        if not domains:
            raise BadUse("--send wants --listed: which domain is the server's own?")
        domain = octets(self.send).rpartition(b"@")[2].lower()
        return domain not in domains and not (home and home.takes(domain))

    def mailbox(self, home: Home | None, listed: Sequence[bytes], server: str, user: str) -> Mailbox | None:
        """Where messages go: outside, for what is relayed; inside, for what is smuggled."""
        if not self.send:
            return None
        domains = {word.rpartition(b"@")[2].lower() for word in listed}
        outside = self.is_send_outside(domains, home)
        own = [word for word in listed if b"@" in word]
        inside = own[0] if outside and own else b"" if outside else octets(self.send)
        return Mailbox(self.send if outside else "", inside, server, user, os.uname().nodename)

    def notes(self, mailbox: Mailbox | None) -> tuple[str, ...]:
        """What somebody must know who reads the report."""
        notes = []
        if self.only:
            patterns = ", ".join([PLAINEST, *(shown(octets(pattern)) for pattern in self.only)])
            notes.append(f"only these probes were asked: {patterns}")
        if mailbox:
            where = " and ".join(shown(a) for a in (octets(mailbox.address), mailbox.inside) if a)
            notes.append(f"messages went to {where}, where they were taken: one for each kind of probe at most")
            if not mailbox.inside:
                notes.append("no message was smuggled: that wants --listed USER@DOMAIN, a mailbox of the server's own")
        return tuple(notes)

    def probes(self, mailbox: Mailbox | None) -> list[Probe]:
        """The catalogue, as far as it is wanted. Raises BadUse where nothing is left of it."""
        asked_for = {""} | ({"auth"} if self.auth else set()) | ({"send"} if mailbox and mailbox.inside else set())
        found = [probe for probe in (*address_probes(), *trick_probes()) if probe.needs in asked_for]
        for pattern in self.only:
            if not any(fnmatchcase(probe.name, pattern) for probe in found):
                raise BadUse(f"--only: no probe is like {shown(octets(pattern))} (see --list)")
        wanted = (*self.only, PLAINEST) if self.only else ("*",)  # without the plain case nothing is closed
        return [probe for probe in found if any(fnmatchcase(probe.name, pattern) for pattern in wanted)]

    def plain(self) -> list[Probe]:
        """The two that show at once whether a client may relay."""
        return [probe for probe in address_probes() if probe.name in PLAIN]


def is_address(text: str) -> bool:
    """user@domain, of letters that need no quoting anywhere."""
    user, at, domain = octets(text).rpartition(b"@")
    return bool(at and user) and not user.strip(LOCAL_PART) and is_name(domain)
