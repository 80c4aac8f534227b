"""Advice: what to change for each finding of a report, in a control file or a line of the rules. Pure.

If the home and the rules are known, the advice names files and lines. For a server across the network it can only name
the usual cause of the finding.
"""

from collections.abc import Sequence
from typing import NamedTuple

from qmail_smtpd.probe.home import Home
from qmail_smtpd.probe.judge import (
    CANNOT_TELL,
    INSIDE,
    NEEDS_SEND,
    OPEN,
    TAKEN,
    TAKES_UNKNOWN,
    Result,
    plain_case_accepted,
)
from qmail_smtpd.probe.report import Change, Part, findings
from qmail_smtpd.probe.text import printable
from qmail_smtpd.probe.vantage import address_class
from tcprules.compile import BadLine, records

RELAYCLIENT = "RELAYCLIENT="
QMAILHOME = "QMAILHOME="

# group of the catalogue -> where to change what, on any kind of server
CHANGES = {
    "plain": (
        "the relay rules",
        "a sender must not allow relaying, because it can be forged: use client addresses (RELAYCLIENT) or AUTH",
    ),
    "helo": ("the relay rules", "a HELO name must not allow relaying, because it can be forged"),
    "state": ("the server", "it accepts a recipient without the checks of its own transaction: update it"),
    "proxy": (
        "the list of proxies",
        "accept XCLIENT, XFORWARD and the PROXY line only from proxies"
        " (control/xclienthosts; Postfix: smtpd_authorized_xclient_hosts)",
    ),
    "tls": ("the server", "it executes within TLS a command that was sent before TLS: update it (CVE-2011-0411)"),
    "auth": (
        "the password checker",
        "it accepts an invented login: is it true(1), or are its arguments in the wrong order?",
    ),
    "smuggling": (
        "the end of a message",
        "only CRLF.CRLF may end it: run no fixcrio before the server (Postfix: smtpd_forbid_bare_newline = normalize)",
    ),
    "control": (
        "the server",
        "it must refuse an address with a NUL, and two addresses in one: a later program may read only a part",
    ),
}
BY_TRICK = (
    "the recipient check",
    "it reads the address in one way, and the delivery reads it in another",
)
OPEN_TO_ALL = (
    "the relay rules",
    "every client may relay: accept mail only for your domains (rcpthosts), relay only for your networks (tcp.smtp)",
)
NETWORKS = "allow only your own networks, and name public ones with --inside"
NAMES = "gives RELAYCLIENT to any client whose reverse DNS has such a name"
OTHER_HOME = "gives the server another home, where control/rcpthosts is missing and every client may relay"
MISSING = "is missing, so every recipient is accepted: list the domains that you accept mail for, one a line"
PROXIED = (
    "may relay, and control/authcleartext exists. If a TLS proxy on this host (stunnel, HAProxy) passes clients on to "
    "this server, all of them have this address, and may relay. To test this: --as-outside --client"
)
UNKNOWN = "list the recipients that exist, so that mail for others is refused and not returned to forged senders"
STRICT = "create this empty file: our qmail-smtpd then refuses addresses that a later mailer may route onward"


class Source(NamedTuple):
    """A rules file: its path, and for each key the number and text of the line that defines it."""

    path: str
    lines: dict[bytes, tuple[int, bytes]]


class _LineCounter:
    """Remembers the number of the line that is being compiled."""

    number = 0

    def rule(self, number: int, rule: object) -> None:
        self.number = number

    def ignored(self, number: int, line: bytes) -> None:
        pass


def source_of(path: str, lines: list[bytes]) -> Source:
    """Return the lines of a rules file up to the first one that does not compile: later lines have not become rules."""
    counter = _LineCounter()
    line_of: dict[bytes, tuple[int, bytes]] = {}
    try:
        for key, _ in records(lines, counter):
            line_of.setdefault(key, (counter.number, lines[counter.number - 1]))
    except BadLine:
        pass
    return Source(path, line_of)


def changes(parts: Sequence[Part], home: Home | None, source: Source | None, cdb: str) -> tuple[Change, ...]:
    """Return what to change, without repetitions, the most serious first."""
    advice: list[Change] = []
    for part in parts:
        if part.word == OPEN:
            advice += changes_for_part(part, home, source, cdb)
    if any(is_ambiguous(result) for part in parts for result in part.results):
        advice.append(Change(*CHANGES["control"]))
    if home is not None and not home.is_strict and any(has_result(part.results, NEEDS_SEND) for part in parts):
        advice.append(Change(home.control_path("relaystrict"), STRICT))
    if any(part.word != OPEN and has_result(part.results, TAKES_UNKNOWN) for part in parts):
        where = "the recipient check" if home is None else home.control_path("validrcptto")
        advice.append(Change(where, UNKNOWN))
    return tuple(dict.fromkeys(advice))


def proxy_notes(parts: Sequence[Part], has_authcleartext: bool) -> tuple[str, ...]:
    """Return a remark about each loopback client that may relay, if the server may be behind a proxy."""
    if not has_authcleartext:
        return ()
    local = [part.client for part in parts if part.word == INSIDE and address_class(part.client) == "loopback"]
    return tuple(f"{client} {PROXIED} {client}" for client in local)


def changes_for_part(part: Part, home: Home | None, source: Source | None, cdb: str) -> list[Change]:
    """Return the changes for one client that may do too much."""
    if not plain_case_accepted(part.results):
        return [change_for_result(finding.results[0]) for finding in findings(part) if finding.word == OPEN]
    if any(variable.startswith(RELAYCLIENT) for variable in part.environment):
        return [rule_change(part, source, cdb)]
    if any(variable.startswith(QMAILHOME) for variable in part.environment):
        return [Change(rule_location(part, source, cdb), OTHER_HOME)]
    if home is not None and home.rcpthosts is None:
        return [Change(home.control_path("rcpthosts"), MISSING)]
    return [Change(*OPEN_TO_ALL)]


def rule_change(part: Part, source: Source | None, cdb: str) -> Change:
    """Return the change of the rule that lets this client relay."""
    key = part.rule_key or b""
    what = f"gives RELAYCLIENT to {part.client}: {NETWORKS}"
    if key == b"":
        what = f"gives RELAYCLIENT to every client: {NETWORKS}"
    elif b"@" in key:
        what = "gives RELAYCLIENT by ident, where the client itself chooses the answer"
    elif key[:1] == b"=":
        what = f"{NAMES}, unless tcpserver has -p: {NETWORKS}"
    return Change(rule_location(part, source, cdb), what)


def rule_location(part: Part, source: Source | None, cdb: str) -> str:
    """Return where the client's rule is: a line of the rules file if it is known, otherwise the cdb and the key."""
    key = part.rule_key or b""
    if source is not None and key in source.lines:
        number, line = source.lines[key]
        return f"{source.path}, line {number}: {printable(line)}"
    return f"{cdb}, {part.rule}"


def change_for_result(result: Result) -> Change:
    """Return the change for a probe that is open although the plain case was refused."""
    return Change(*CHANGES.get(result.probe.group, BY_TRICK))


def is_ambiguous(result: Result) -> bool:
    """Whether the recipient was accepted although one reading of its address is outside."""
    return result.outcome == TAKEN and result.word == CANNOT_TELL


def has_result(results: Sequence[Result], word: str) -> bool:
    return any(result.word == word for result in results)
