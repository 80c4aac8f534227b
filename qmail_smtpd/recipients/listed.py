"""Whether control/validrcptto and validrcptto.cdb list a recipient. A domain that neither of them names is not judged.

qmail-newvrt compiles the list. It adds records that the patch never looks up, because no address begins with a NUL:
which list was compiled, and each domain that it names.
"""

from qmail_smtpd import control
from qmail_smtpd.log import escaped
from qmail_smtpd.recipients.cdb import Cdb
from qmail_smtpd.recipients.cdbscan import names_domain
from qmail_smtpd.recipients.entries import REFUSES, Entries, domain_of, keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable

LIST, CDB = b"validrcptto", b"validrcptto.cdb"
STAMP = b"\0"  # key of the record about the list that was compiled
DOMAIN = b"\0@"  # begins the keys of the domains
MOST_DOMAINS = 1000  # whose verdict is remembered


def stamp(status: "os.stat_result") -> bytes:
    """Return the data of the record that names the list which was compiled."""
    return b"%d %d" % (status.st_size, status.st_mtime_ns)


class Lists:
    """The files as they are for one client after the other: the list's entries, and what is known of the cdb."""

    __slots__ = ("domains", "entries", "has_cdb", "smtputf8")

    def __init__(self, warn: "Callable[[bytes, bytes], None]", smtputf8: bool = False) -> None:
        """Read the list, unless the cdb has been compiled from it. `warn`: file, mistake. Raises Unreadable.

        `smtputf8`: it is offered, so that an entry counts for each spelling of its domain, as in rcpthosts.
        """
        self.smtputf8 = smtputf8
        self.domains: dict[bytes, bool | None] = {}  # the verdicts for recipients without an entry of their own
        self.has_cdb = control.exists(CDB)
        self.entries = Entries(())
        if not (self.has_cdb and self.is_compiled(warn)):
            self.entries = Entries(control.list_entries(control.read(LIST) or b""))
            warn_of_mistakes(self.entries, warn)

    def is_compiled(self, warn: "Callable[[bytes, bytes], None]") -> bool:
        """Whether the cdb has everything that the list says. Warn if the list has changed since it was compiled."""
        control.watch(CDB)
        status = control.watch(LIST)
        if status is None:
            return True
        cdb = self.open_cdb()
        try:
            compiled = cdb.find(STAMP)
        finally:
            cdb.close()
        if compiled is not None and compiled != stamp(status):
            warn(LIST, b"has changed since it was compiled: run qmail-newvrt")
        return compiled == stamp(status)

    def open_cdb(self) -> Cdb:
        """Open the cdb. Raises Unreadable."""
        return Cdb(CDB, control.open_control(CDB) if self.has_cdb else -1)


def warn_of_mistakes(entries: Entries, warn: "Callable[[bytes, bytes], None]") -> None:
    """Warn about lines without effect, and about domains of which every recipient is refused."""
    if entries.faults:
        line, why = entries.faults[0]
        warn(LIST, b"has lines without effect: %b: %b" % (escaped(line), why.encode()))
    closed = entries.closed_domains()
    if closed:
        domain = escaped(closed[0])
        warn(LIST, b"accepts no recipient of %b; @%b accepts those that it does not refuse" % (domain, domain))


class Listed:
    """The files during one session. The cdb is open."""

    __slots__ = ("cdb", "is_ours", "lists")

    def __init__(self, lists: Lists) -> None:
        self.lists = lists
        self.cdb = lists.open_cdb()
        self.is_ours: bool | None = None  # whether qmail-newvrt has compiled the cdb; None: not known yet

    def close(self) -> None:
        """Close the cdb."""
        self.cdb.close()

    def verdict(self, recipient: bytes) -> bool | None:
        """Whether the recipient is listed; None if it has no domain, or one that is not named. Raises Unreadable."""
        if b"@" not in recipient:
            return None
        address = recipient.lower()
        others: list[bytes] = []
        if self.lists.smtputf8:
            from qmail_smtpd.smtp.idn import other_spellings  # loaded only where SMTPUTF8 is offered

            others = other_spellings(domain_of(address))
        for key in keys(address):
            answer = self.answer_to_any(key, others) if others else self.answer(key)
            if answer is not None:
                return answer
        return self.verdict_of_domain(domain_of(address), others)

    def verdict_of_domain(self, domain: bytes, others: list[bytes]) -> bool | None:
        """Return the verdict for recipients of the domain without an entry of their own. `others`: its spellings.

        It is remembered until one of the files changes.
        """
        known = self.lists.domains
        if domain not in known:
            if len(known) >= MOST_DOMAINS:
                known.clear()
            answer = self.answer_to_any(b"@" + domain, others) if others else self.answer(b"@" + domain)
            if answer is None and (self.names(domain) or any(map(self.names, others))):
                answer = False
            known[domain] = answer
        return known[domain]

    def answer_to_any(self, key: bytes, others: list[bytes]) -> bool | None:
        """Return the answer to a key in all spellings of its domain: if one of them refuses, that counts."""
        start = key[: key.rfind(b"@") + 1]
        answers = [self.answer(key), *(self.answer(start + other) for other in others)]
        return False if False in answers else True if True in answers else None

    def answer(self, key: bytes) -> bool | None:
        """Whether the files accept a key; None: it is in neither. If they contradict each other, the refusal counts."""
        listed = self.lists.entries.keys.get(key)
        if listed is False:
            return False
        data = self.cdb.find(key)
        if data is None and not self.is_compiled_here() and self.cdb.has(REFUSES + key):
            return False  # a cdb made of the entries as they are, which some successors of the patch read
        if data is None:
            return listed
        return not data.startswith(REFUSES)

    def names(self, domain: bytes) -> bool:
        """Whether one of the files has an entry for this domain."""
        if domain in self.lists.entries.domains:
            return True
        if self.cdb.descriptor < 0 or self.is_compiled_here():
            return self.cdb.has(DOMAIN + domain)
        return names_domain(self.cdb, domain)

    def is_compiled_here(self) -> bool:
        """Whether qmail-newvrt has compiled the cdb, or there is none."""
        if self.is_ours is None:
            self.is_ours = self.cdb.descriptor < 0 or self.cdb.has(STAMP)
        return self.is_ours
