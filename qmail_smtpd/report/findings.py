"""What looks wrong, the worst first. Pure. docs/relayreport.md has the thresholds with their reasons."""

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from qmail_smtpd.report.relayers import Relayer
from qmail_smtpd.report.tally import Tally
from qmail_smtpd.report.text import clock, plural, shown

TIMES_USUAL = 10  # an hour is unusual with so many times the usual recipients of the relayer
LEAST_RECIPIENTS = 50  # in an unusual hour: fewer do little harm
LEAST_HOURS = 6  # with mail: from fewer hours no usual number is computed
MANY_NETWORKS = 5  # of one login within 24 hours
MANY_HELOS = 10  # of a relaying address, with as many senders' domains
MANY_NAMES = 5  # of others that a client has tried before it got in
MANY_UNKNOWN = 20  # recipients of a client in a row
MANY_FAILURES = 100  # failed logins of an address, or with a name
MOST_OF_A_KIND = 10
KINDS = (
    *("open-relay", "guessed-login", "unusual-relaying", "many-networks", "gateway", "failed-logins"),
    *("unknown-recipients", "full", "lost-lines"),
)
ADVICE = {
    b"login": "The password may be stolen: change it, then look at what is queued.",
    b"pop": "The password may be stolen: change it, and run relay-list --deny ADDRESS.",
    b"address": "Look at what this host sends, or take RELAYCLIENT from its rule.",
}

Hours = dict[int, int]


class Finding(NamedTuple):
    """`kind` is a word for programs, `title` the sentence, `advice` what to do. `when`: from, until, or None."""

    kind: str
    who: str
    title: str
    detail: str
    advice: str
    when: tuple[float, float] | None


def findings(tally: Tally) -> list[Finding]:
    """Return what looks wrong."""
    kinds = (open_relay, guessed, unusual, many_networks, gateways, failing, unknown_runs, incomplete)
    return [finding for kind in kinds for finding in list(kind(tally))[:MOST_OF_A_KIND]]


def open_relay(tally: Tally) -> Iterator[Finding]:
    """A warning of qmail-smtpd that it relays for everybody, or the rule `:` that has let a client relay."""
    for text, count in tally.warnings.totals():
        if b"open relay" in text:
            advice = "Create control/rcpthosts with the domains that this host accepts mail for."
            yield Finding("open-relay", "", "This host is an open relay", f"{shown(text)} ({count})", advice, None)
    for relayer in tally.relayers.found.values():
        if relayer.how == b"address" and relayer.rule == b":":
            detail = f"{shown(relayer.who)} was allowed to relay by the rule `:`, which is for all clients."
            advice = "Take RELAYCLIENT from this rule; relaytest --rules shows what each client may do."
            yield Finding("open-relay", shown(relayer.who), "The rules let every client relay", detail, advice, None)
            return


def guessed(tally: Tally) -> Iterator[Finding]:
    """A client that has failed with other logins, and then got in."""
    for (address, user), (names, when) in sorted(tally.suspects.guessed.items(), key=lambda item: -item[1][0]):
        if names >= MANY_NAMES:
            yield Finding(
                "guessed-login",
                shown(user),
                f"{shown(address)} failed to log in as {names} users, then logged in as {shown(user)}",
                "A user's own client does not try the names of others: the password was guessed or stolen.",
                "Change this user's password; deny the address in the rules.",
                (when, when) if when else None,
            )


def unusual(tally: Tally) -> Iterator[Finding]:
    """A relayer with hours of many times its usual recipients."""
    found = []
    relayers = list(tally.relayers.found.values())
    pooled = {how: counts_of(relayers, how) for how in {relayer.how for relayer in relayers}}
    for relayer in relayers:
        if relayer.hours and max(relayer.hours.values()) >= LEAST_RECIPIENTS:
            busy = busy_hours(relayer, pooled[relayer.how])
            if busy:
                found.append((max(relayer.hours.values()), relayer, *busy))
    for most, relayer, hours, usual, of_all in sorted(found, key=lambda one: (-one[0], one[1].who)):
        yield unusual_finding(relayer, most, hours, usual, of_all)


def counts_of(relayers: list[Relayer], how: bytes) -> list[int]:
    """Return the counts of all hours of the relayers with the same right, sorted."""
    return sorted(count for relayer in relayers if relayer.how == how for count in relayer.hours.values())


def busy_hours(relayer: Relayer, pooled: list[int]) -> tuple[list[int], float, bool] | None:
    """Return the hours out of proportion, what is usual, and whether that is for all relayers; None: no such hours."""
    usual, of_all = usual_of(relayer.hours), False
    if usual is None:
        if len(pooled) - len(relayer.hours) < LEAST_HOURS:
            return None
        usual, of_all = float(median(pooled)), True
    bound = max(TIMES_USUAL * usual, LEAST_RECIPIENTS)
    busy = sorted(hour for hour, count in relayer.hours.items() if count >= bound)
    return (busy, usual, of_all) if busy else None


def usual_of(hours: Hours) -> float | None:
    """Return the median of the hours with mail, without the busiest quarter; None if they are too few."""
    counts = sorted(hours.values())
    if len(counts) < LEAST_HOURS:
        return None
    return float(median(counts[: len(counts) - len(counts) // 4]))


def unusual_finding(relayer: Relayer, most: int, hours: list[int], usual: float, of_all: bool) -> Finding:
    """Return the finding of one relayer."""
    who = f"{'The address' if relayer.how == b'address' else 'The login'} {shown(relayer.who)}"
    whose = "what is usual for all" if of_all else "its usual"
    factor = most / max(usual, 1)
    total = sum(relayer.hours[hour] for hour in hours)
    detail = (
        f"{plural(total, 'recipient')} in {plural(len(hours), 'hour')}"
        f", from {plural(len(relayer.addresses), 'address', 'addresses')}"
        f", with {plural(len(relayer.domains), 'domain')} of senders; usual: {usual:g} an hour."
    )
    advice = ADVICE.get(relayer.how, ADVICE[b"address"]) + " control/relaylimits bounds such a loss."
    title = f"{who} relayed to {most:,} recipients in one hour, {factor:,.0f} times {whose}"
    when = (hours[0] * 3600.0, (hours[-1] + 1) * 3600.0)
    return Finding("unusual-relaying", shown(relayer.who), title, detail, advice, when)


def many_networks(tally: Tally) -> Iterator[Finding]:
    """A login that was used from many networks within a day."""
    users = sorted(tally.suspects.users.items(), key=lambda item: (-len(item[1].most), item[0]))
    for name, user in users:
        if len(user.most) >= MANY_NETWORKS:
            some = ", ".join(shown(network) for network in sorted(user.most)[:8])
            more = ", ..." if len(user.most) > 8 else ""
            within = " within 24 hours" if user.until else ""
            yield Finding(
                "many-networks",
                shown(name),
                f"The login {shown(name)} came from {len(user.most)} networks{within}",
                f"{some}{more}",
                "The password may be stolen: ask the user, and change it.",
                (user.since, user.until) if user.until else None,
            )


def gateways(tally: Tally) -> Iterator[Finding]:
    """An address that relays, behind which are many clients."""
    for relayer in sorted(tally.relayers.found.values(), key=lambda one: (-one.recipients, one.who)):
        if relayer.how != b"address":
            continue
        who, amount = shown(relayer.who), plural(relayer.recipients, "recipient")
        advice = "Give this address a rule without RELAYCLIENT, or use --proxy-from (docs/proxies.md)."
        if relayer.via:
            title = f"{who} relays, and is this host's {shown(relayer.via)}: any client may be behind it"
            yield Finding("gateway", who, title, f"{amount} relayed.", advice, None)
        elif len(relayer.helos) >= MANY_HELOS and len(relayer.domains) >= MANY_HELOS:
            title = f"{who} relays, and looks like a gateway: many clients are behind it"
            names = f"at least {len(relayer.helos)} HELO names and {len(relayer.domains)} domains of senders"
            yield Finding("gateway", who, title, f"{amount} relayed, {names}.", advice, None)


def failing(tally: Tally) -> Iterator[Finding]:
    """Many failed logins of an address, or with a name."""
    advice = "Set control/authfaillimit, or use the fail2ban filter of docs/qmail-smtpd.md."
    for what, table in (("from", tally.failed_addresses), ("as", tally.failed_names)):
        for name, row in table.best(MOST_OF_A_KIND // 2):
            if row[0] >= MANY_FAILURES:
                title = f"{row[0]:,} failed logins {what} {shown(name)}"
                yield Finding(
                    "failed-logins",
                    shown(name),
                    title,
                    "Passwords are being guessed, or a client has an old one.",
                    advice,
                    None,
                )


def unknown_runs(tally: Tally) -> Iterator[Finding]:
    """A client that has asked for many recipients in a row that do not exist."""
    runs = sorted(tally.suspects.runs.items(), key=lambda item: (-item[1].longest, item[0]))
    for address, run in runs:
        if run.longest >= MANY_UNKNOWN:
            yield Finding(
                "unknown-recipients",
                shown(address),
                f"{shown(address)} asked for {run.longest:,} unknown recipients in a row",
                "It looks for addresses that exist.",
                "Set control/brtlimit; with control/authfaillimit it counts over sessions.",
                (run.until, run.until) if run.until else None,
            )


def incomplete(tally: Tally) -> Iterator[Finding]:
    """A server that reached its limit of connections, and a log that lost lines."""
    for text, count in tally.limits.totals():
        if text.endswith(b"(-c) in use"):
            title = f"tcpserver reached its limit of connections {plural(count, 'time')}"
            yield Finding(
                "full", "", title, shown(text), "Raise -c, or find out which clients hold the connections.", None
            )
    lost = [text for text, _ in tally.warnings.totals() if text.startswith(b"tcpserver: dropped ")]
    if lost:
        detail = ", ".join(shown(text) for text in lost[:3])
        yield Finding("lost-lines", "", "The log is incomplete", detail, "Its reader was too slow or stopped.", None)


def period(finding: Finding) -> str:
    """Return when it was, in local time, or nothing."""
    if finding.when is None:
        return ""
    first, last = finding.when
    return clock(first) if first == last else f"{clock(first)} to {clock(last)}"
