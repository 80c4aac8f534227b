"""What to change: a report's findings -> which control file, which line of which rules. Pure.

Where the home and the rules are at hand it names them; to a server at the other end of the network it can only say what
such a finding comes from.
"""

from collections.abc import Sequence
from typing import NamedTuple

from qmail_smtpd.probe.home import Home
from qmail_smtpd.probe.judge import CANNOT_TELL, NEEDS_SEND, OPEN, TAKEN, Result, is_trusted
from qmail_smtpd.probe.report import Change, Part, findings
from qmail_smtpd.probe.text import shown
from tcprules.compile import BadLine, records

RELAYCLIENT = "RELAYCLIENT="
QMAILHOME = "QMAILHOME="

# group of the catalogue -> where, and what, in whoever's server it is
CURES = {
    "plain": (
        "the relay rules",
        "no sender may open them: anybody can write any sender. Client addresses (RELAYCLIENT) or AUTH must",
    ),
    "helo": ("the relay rules", "no name in HELO may open them: anybody can give any name"),
    "state": ("the server", "a recipient is taken without the checks of its own transaction: update it"),
    "proxy": (
        "the list of proxies",
        "XCLIENT, XFORWARD and the PROXY line are for proxies alone (Postfix: smtpd_authorized_xclient_hosts)",
    ),
    "tls": ("the server", "it obeys in TLS what was sent before it: update it (CVE-2011-0411)"),
    "auth": (
        "the password checker",
        "it says yes to a login that nobody has: is it true(1), or are its words in the wrong order?",
    ),
    "smuggling": (
        "what ends a message",
        "only CRLF.CRLF may: no fixcrio before the server (Postfix: smtpd_forbid_bare_newline = normalize)",
    ),
    "control": ("the server", "an address must not hold a NUL, nor be two: some later program may end it there"),
}
BY_TRICK = (
    "the check of recipients",
    "the address is read in one way when it is checked, and in another when it is sent",
)
EVERYBODY = (
    "the relay rules",
    "everybody may relay: take mail for your own domains alone (rcpthosts), let your own networks relay (tcp.smtp)",
)
NETWORKS = "name networks that are yours, and call public ones so with --inside"
NAMES = "gives RELAYCLIENT to whoever writes such a name into the reverse DNS of his address"
OTHER_HOME = "gives the server another home: it is control/rcpthosts there that lets everybody relay"
MISSING = "is missing, and so every recipient is taken: write into it the domains that you take mail for, one a line"
STRICT = "an empty file of this name has our qmail-smtpd refuse addresses that a later mailer may send on"


class Source(NamedTuple):
    """A rules file: where it is, and key -> the number and the text of the line that makes its rule."""

    path: str
    lines: dict[bytes, tuple[int, bytes]]


class _Numbers:
    """Which line is being compiled."""

    number = 0

    def rule(self, number: int, rule: object) -> None:
        self.number = number

    def ignored(self, number: int, line: bytes) -> None:
        pass


def source_of(path: str, content: bytes) -> Source:
    """The lines of a rules file. One that does not compile ends them: what is behind it has made no rule."""
    lines = content.split(b"\n")
    numbers = _Numbers()
    found: dict[bytes, tuple[int, bytes]] = {}
    try:
        for key, _ in records(lines, numbers):
            found.setdefault(key, (numbers.number, lines[numbers.number - 1]))
    except BadLine:
        pass
    return Source(path, found)


def changes(parts: Sequence[Part], home: Home | None, source: Source | None, cdb: str) -> tuple[Change, ...]:
    """What to change, each once, the worst first."""
    found: list[Change] = []
    for part in parts:
        if part.word == OPEN:
            found += cures(part, home, source, cdb)
    if any(is_ambiguous(result) for part in parts for result in part.results):
        found.append(Change(*CURES["control"]))
    if home is not None and not home.is_strict and any(has(part.results, NEEDS_SEND) for part in parts):
        found.append(Change(home.control("relaystrict"), STRICT))
    return tuple(dict.fromkeys(found))


def cures(part: Part, home: Home | None, source: Source | None, cdb: str) -> list[Change]:
    """For one client who may do too much."""
    if not is_trusted(part.results):
        return [cure(finding.results[0]) for finding in findings(part) if finding.word == OPEN]
    if any(variable.startswith(RELAYCLIENT) for variable in part.environment):
        return [rule_change(part, source, cdb)]
    if any(variable.startswith(QMAILHOME) for variable in part.environment):
        return [Change(rule_place(part, source, cdb), OTHER_HOME)]
    if home is not None and home.rcpthosts is None:
        return [Change(home.control("rcpthosts"), MISSING)]
    return [Change(*EVERYBODY)]


def rule_change(part: Part, source: Source | None, cdb: str) -> Change:
    """The rule that lets this client relay."""
    key = part.rule_key or b""
    what = f"gives RELAYCLIENT to {part.who}: {NETWORKS}"
    if key == b"":
        what = f"gives RELAYCLIENT to everybody: {NETWORKS}"
    elif b"@" in key:
        what = "gives RELAYCLIENT to whoever says so by ident: the client's own word"
    elif key[:1] == b"=":
        what = f"{NAMES}, unless tcpserver has -p: {NETWORKS}"
    return Change(rule_place(part, source, cdb), what)


def rule_place(part: Part, source: Source | None, cdb: str) -> str:
    """Where the rule of this client stands."""
    key = part.rule_key or b""
    if source is not None and key in source.lines:
        number, line = source.lines[key]
        return f"{source.path}, line {number}: {shown(line)}"
    return f"{cdb}, {part.rule}"


def cure(result: Result) -> Change:
    """For a probe that went through though the plain case did not."""
    return Change(*CURES.get(result.probe.group, BY_TRICK))


def is_ambiguous(result: Result) -> bool:
    """Taken, though one of its readings is outside."""
    return result.outcome == TAKEN and result.word == CANNOT_TELL


def has(results: Sequence[Result], word: str) -> bool:
    return any(result.word == word for result in results)
