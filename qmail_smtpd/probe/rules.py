"""What tcpserver and the server behind it would let each client do: the rules are looked up, and the session is run.

A session is run for every client that may connect. The whole catalogue is asked once for each set of variables that
the rules give; other clients with the same set are asked the plain case, and everything if they answer it otherwise.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from qmail_smtpd.probe.clients import Client
from qmail_smtpd.probe.judge import CLOSED, INSIDE, OPEN, REFUSED, Verdict, is_trusted, verdict
from qmail_smtpd.probe.pipe import Piper, client_variables
from qmail_smtpd.probe.probes import Probe
from qmail_smtpd.probe.report import DENIED, Part
from qmail_smtpd.probe.run import Examination, Plan, Run
from qmail_smtpd.probe.text import shown
from qmail_smtpd.probe.vantage import Inside
from tcprules.lookup import Rules, judge
from tcprules.lookup import Verdict as Rule

MAXCONIP = b"MAXCONIP"  # tcpserver: a rule's own limit of connections; 0 lets nobody in


class Ask(NamedTuple):
    """How all clients are asked."""

    argv: Sequence[str]
    base: dict[bytes, bytes]
    plan: Plan
    probes: Sequence[Probe]
    plain: Sequence[Probe]
    listed: Sequence[bytes]
    inside: Inside


Tell = Callable[[int, int, str], None]


def is_denied(rule: Rule) -> bool:
    """Whether tcpserver drops the connection."""
    limits = [value for name, value in rule.environment if name == MAXCONIP and value.isdigit()]
    return rule.deny or (bool(limits) and not int(limits[0][:9]))


def environment_of(ask: Ask, client: Client, rule: Rule) -> dict[bytes, bytes]:
    """What the session finds: the client's variables, then the rule's, which may replace any."""
    return ask.base | client_variables(client.ip, client.host, client.info) | dict(rule.environment)


def ask_clients(rules: Rules, clients: Sequence[Client], ask: Ask, tell: Tell) -> list[Part]:
    """One part for each client. Raises OSError for broken rules, NoConnection where there is no program."""
    known: dict[bytes, Examination] = {}
    parts = []
    for number, client in enumerate(clients):
        rule = judge(rules, client.ip, client.host, client.info)
        tell(number, len(clients), client.text)
        parts.append(part_of(client, rule, ask, known))
    return parts


def part_of(client: Client, rule: Rule, ask: Ask, known: dict[bytes, Examination]) -> Part:
    """Look at one client."""
    text = rule_text(rule)
    variables = tuple(f"{shown(name)}={shown(value)}" for name, value in dict(rule.environment).items())
    if is_denied(rule):
        return Part(client.text, client.reason, DENIED, "it may not connect", rule=text, rule_key=rule.key)
    found = examine(client, rule, ask, known)
    is_inside = ask.inside.has(client.ip.decode(), (client.host or b"").decode("latin-1"))
    judged = verdict(found.controls, found.results, is_inside)
    if judged.word == INSIDE:
        judged = Verdict(INSIDE, "it may relay")
    elif judged.word == OPEN and is_trusted(found.results):
        judged = Verdict(OPEN, "it may relay, and is not inside")
    names, passed, results = found
    return Part(
        client.text, client.reason, *judged, names, passed, results, rule=text, environment=variables, rule_key=rule.key
    )


def examine(client: Client, rule: Rule, ask: Ask, known: dict[bytes, Examination]) -> Examination:
    """The session: in full for the first client with these variables, and where the plain case differs from its."""
    environ = environment_of(ask, client, rule)
    key = rule.data
    piper = Piper(ask.argv, environ)
    if key in known and word(known[key]) == CLOSED:
        short = with_log(piper, Run(piper, ask.plan).examine(ask.plain, ask.listed, silent))
        if all(control.passed for control in short.controls) and all(r.word == REFUSED for r in short.results):
            return known[key]._replace(controls=short.controls)
    known[key] = with_log(piper, Run(piper, ask.plan).examine(ask.probes, ask.listed, silent))
    return known[key]


def with_log(piper: Piper, found: Examination) -> Examination:
    """Where a program does not even greet, what it wrote to its log says why."""
    first, *rest = found.controls
    said = piper.last_words()
    if first.passed or not said:
        return found
    return found._replace(controls=(first._replace(why=f"{first.why}; its log says: {shown(said)}"), *rest))


def word(examination: Examination) -> str:
    """The verdict on a client outside."""
    return verdict(examination.controls, examination.results, False).word


def silent(done: int, of: int, what: str) -> None:
    """Progress is told by clients here."""


def rule_text(rule: Rule) -> str:
    """The key that counts, as tcprulescheck names it."""
    return "default" if rule.key is None else f"rule {shown(rule.key)}:"
