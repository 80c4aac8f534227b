"""Test what each client may do behind tcpserver with a set of rules: look up its rule, and run the session.

A session is run for every client that may connect. The whole catalogue is used for the first client with each set of
variables that the rules give. If its verdict is closed, the others with this set get the plain case, and the whole
catalogue if their replies differ. Otherwise each of them gets the whole catalogue.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from qmail_smtpd.probe.clients import Client
from qmail_smtpd.probe.judge import CLOSED, INSIDE, OPEN, REFUSED, Verdict, plain_case_accepted, verdict
from qmail_smtpd.probe.pipe import ProgramRunner, client_variables
from qmail_smtpd.probe.probes import Probe
from qmail_smtpd.probe.report import DENIED, Part
from qmail_smtpd.probe.run import Examination, Plan, Run
from qmail_smtpd.probe.text import printable
from qmail_smtpd.probe.vantage import Inside
from tcprules.lookup import Rules, judge
from tcprules.lookup import Verdict as Rule


class Setup(NamedTuple):
    """What all clients have in common."""

    argv: Sequence[str]
    base: dict[bytes, bytes]
    plan: Plan
    probes: Sequence[Probe]
    plain: Sequence[Probe]
    listed: Sequence[bytes]
    inside: Inside
    as_outside: bool


Progress = Callable[[int, int, str], None]


def is_denied(rule: Rule) -> bool:
    """Whether tcpserver closes the connection."""
    return rule.deny or rule.is_full(0)


def environment_of(setup: Setup, client: Client, rule: Rule) -> dict[bytes, bytes]:
    """Return the session's environment: the client's variables, then the rule's, which may replace them."""
    return setup.base | client_variables(client.ip, client.host, client.info) | dict(rule.environment)


def ask_clients(rules: Rules, clients: Sequence[Client], setup: Setup, progress: Progress) -> list[Part]:
    """Return one part for each client. Raise OSError for broken rules, NoConnection if there is no program."""
    examinations: dict[bytes, Examination] = {}
    parts = []
    for number, client in enumerate(clients):
        rule = judge(rules, client.ip, client.host, client.info)
        progress(number, len(clients), client.text)
        parts.append(part_of(client, rule, setup, examinations))
    return parts


def part_of(client: Client, rule: Rule, setup: Setup, examinations: dict[bytes, Examination]) -> Part:
    """Return the part of one client."""
    text = rule_text(rule)
    variables = tuple(f"{printable(name)}={printable(value)}" for name, value in dict(rule.environment).items())
    if is_denied(rule):
        return Part(client.text, client.reason, DENIED, "it may not connect", rule=text, rule_key=rule.key)
    examination = examine(client, rule, setup, examinations)
    host = (client.host or b"").decode("latin-1")
    is_inside = not setup.as_outside and setup.inside.includes(client.ip.decode(), host)
    result = verdict(examination.controls, examination.results, is_inside)
    if result.word == INSIDE:
        result = Verdict(INSIDE, "it may relay")
    elif result.word == OPEN and plain_case_accepted(examination.results):
        result = Verdict(OPEN, "it may relay, and is not inside")
    names, controls, results = examination
    return Part(
        client.text,
        client.reason,
        *result,
        names,
        controls,
        results,
        rule=text,
        environment=variables,
        rule_key=rule.key,
    )


def examine(client: Client, rule: Rule, setup: Setup, examinations: dict[bytes, Examination]) -> Examination:
    """Run the session.

    The whole catalogue is used for the first client with these variables, and for a client whose plain case differs. It
    is also used as long as its last verdict for these variables was not closed.
    """
    environ = environment_of(setup, client, rule)
    key = rule.data
    runner = ProgramRunner(setup.argv, environ)
    if key in examinations and outside_verdict(examinations[key]) == CLOSED:
        short = with_log(runner, Run(runner, setup.plan).examine(setup.plain, setup.listed, no_progress))
        if all(control.passed for control in short.controls) and all(r.word == REFUSED for r in short.results):
            return examinations[key]._replace(controls=short.controls)
    examinations[key] = with_log(runner, Run(runner, setup.plan).examine(setup.probes, setup.listed, no_progress))
    return examinations[key]


def with_log(runner: ProgramRunner, examination: Examination) -> Examination:
    """Add the last line of the program's log to the reason if the program sent no greeting."""
    greeting, *rest = examination.controls
    log = runner.last_log_line()
    if greeting.passed or not log:
        return examination
    why = f"{greeting.why}; its log says: {printable(log)}"
    return examination._replace(controls=(greeting._replace(why=why), *rest))


def outside_verdict(examination: Examination) -> str:
    """Return the verdict as for an outside client."""
    return verdict(examination.controls, examination.results, False).word


def no_progress(done: int, of: int, what: str) -> None:
    """Show no progress of single runs: in this mode progress is by clients."""


def rule_text(rule: Rule) -> str:
    """Return the key of the rule, as tcprulescheck names it."""
    return "default" if rule.key is None else f"rule {printable(rule.key)}:"
