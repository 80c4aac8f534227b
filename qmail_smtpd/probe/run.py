"""One run against one server: the controls, then each probe, with RSET behind it and pauses.

A probe whose connection goes wrong is asked once more on a new one, and a 4xx is asked again at the end. What has no
answer then has none: the judge is told, and nothing is guessed here.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from qmail_smtpd.probe import controls
from qmail_smtpd.probe.ask import Answer, ask, ask_smuggling
from qmail_smtpd.probe.connection import Connection, Dial, Lost, Pace
from qmail_smtpd.probe.conversation import SILENT, Conversation
from qmail_smtpd.probe.judge import (
    AT_THE_END,
    BROKEN,
    LATER,
    NOTHING_TO_FIND,
    OPEN,
    PLAINEST,
    REFUSED,
    SENT,
    SKIPPED,
    Control,
    Result,
)
from qmail_smtpd.probe.mailbox import Mailbox
from qmail_smtpd.probe.probes import OPAQUE, OUTSIDE, SMUGGLING, STARTTLS, UNCLEAR, Names, Probe, fill

MOST_BROKEN = 3  # probes in a row that found no answer: there is no use in more
CONTROLS_FAILED = "not asked: see the controls"
SHUT_OUT = "at the end it did not take what it had taken before: it may have refused us, not the relaying"
OVER = "not asked: the time is over"
GIVEN_UP = "not asked: the server does not answer any more"


class Plan(NamedTuple):
    """How a run is to go."""

    hello: bytes  # our name in EHLO
    names: Names
    asked: str = ""  # the host as it was typed
    pace: Pace = Pace()
    mailbox: Mailbox | None = None


class Examination(NamedTuple):
    """What a run has found."""

    names: Names
    controls: tuple[Control, ...]
    results: tuple[Result, ...]


Tell = Callable[[int, int, str], None]  # done, of how many, what


class Run:
    """The state of a run. Raises NoConnection at the first try, and never later."""

    def __init__(self, dial: Dial, plan: Plan) -> None:
        self.hello, self.names, self.asked, self.pace, self.mailbox = plan
        self.connection = Connection(dial, self.pace)
        self.end = time.monotonic() + self.pace.total
        self.sent: set[str] = set()

    def examine(self, probes: Sequence[Probe], listed: Sequence[bytes], tell: Tell) -> Examination:
        """Everything. `listed`: domains or addresses to try as listed ones; without any, the server's own names."""
        try:
            tell(0, len(probes), "controls")
            found = self.check(listed)
            if self.may_go_on(found):
                results = self.ask_all(self.distinct(probes), tell)
                found += self.check_again(results)
            else:
                results = [Result(probe, SKIPPED, why=CONTROLS_FAILED) for probe in probes]
        finally:
            self.connection.hang_up()
        return Examination(self.names, tuple(found), tuple(results))

    def may_go_on(self, found: Sequence[Control]) -> bool:
        """Not without the controls; but where any recipient is taken, a message may still tell."""
        failed = {control.name for control in found if not control.passed}
        return not failed or (failed == {controls.RECIPIENTS} and bool(self.mailbox))

    def check(self, listed: Sequence[bytes]) -> list[Control]:
        """The controls, asked again later where one gets a 4xx. From here on the names are known."""
        found = self.check_once(listed)
        if any(control.reply.kind == 4 for control in found) and self.wait():
            found = self.check_once(listed)
        return found

    def check_once(self, listed: Sequence[bytes]) -> list[Control]:
        """One conversation for the controls."""
        try:
            conversation = self.connection.shared(self.hello)
        except Lost as lost:
            return [Control(controls.GREETING, False, str(lost), lost.greeting)]
        greeting = Control(controls.GREETING, True, "as it should be", conversation.greeting)
        self.names = self.names._replace(me=controls.own_name(conversation.greeting, self.names.me))
        command = controls.ask_command(conversation)
        domains = listed or controls.candidates(self.names, self.asked)
        taken, self.names = controls.ask_listed(conversation, self.names, domains)
        found = [greeting, command, taken]
        if taken.passed:
            found.append(self.ask_recipients(conversation))
        self.leave(found)
        return found

    def ask_recipients(self, conversation: Conversation) -> Control:
        """The impossible ones, on more connections where they end one."""
        try:
            return controls.ask_recipients(conversation, lambda: self.connection.fresh(b"", self.hello), self.names)
        except Lost as lost:
            return Control(controls.RECIPIENTS, False, str(lost), lost.greeting)

    def check_again(self, results: Sequence[Result]) -> list[Control]:
        """At the end a listed recipient must still be taken: a server that has shut us out refuses everything."""
        if not any(result.outcome == REFUSED for result in results):
            return []
        control = self.ask_listed()
        if control.reply.kind == 4 and self.wait():
            control = self.ask_listed()
        self.leave([control])
        why = control.why if control.passed else f"{SHUT_OUT}: {control.why}"
        return [control._replace(name=AT_THE_END, why=why)]

    def leave(self, found: Sequence[Control]) -> None:
        """End the connection, with RSET where there is an answer to that."""
        if all(control.passed for control in found):
            self.connection.reset()
        self.connection.hang_up()

    def ask_listed(self) -> Control:
        """The listed recipient, on a connection of its own."""
        try:
            conversation = self.connection.fresh(b"", self.hello)
        except Lost as lost:
            return Control(controls.LISTED, False, str(lost), lost.greeting)
        return controls.ask_listed(conversation, self.names, [self.names.inside])[0]

    def wait(self) -> bool:
        """Wait before something is asked again, on a new connection; False where there is no time for it."""
        if time.monotonic() + self.pace.again >= self.end:
            return False
        self.connection.hang_up()
        time.sleep(self.pace.again)
        return True

    def ask_all(self, probes: Sequence[Probe], tell: Tell) -> list[Result]:
        """Each probe once, those with a 4xx once more, in the end in the order in which they came."""
        results: dict[str, Result] = {}
        broken = 0
        for number, probe in enumerate(probes):
            tell(number, len(probes), probe.name)
            why = self.why_stop(broken, results)
            results[probe.name] = Result(probe, SKIPPED, why=why) if why else self.ask_patiently(probe)
            if not why:
                broken = broken + 1 if is_hopeless(results[probe.name]) else 0
        later = [result.probe for result in results.values() if result.outcome == LATER]
        if later:
            tell(len(probes), len(probes), "waiting, to ask again")
            waited = self.wait()
            for probe in later if waited else ():
                if time.monotonic() < self.end:
                    results[probe.name] = self.ask_patiently(probe)
        return list(results.values())

    def distinct(self, probes: Sequence[Probe]) -> list[Probe]:
        """Without those that are the same commands, as they are where a listed domain is the server's name."""
        seen: set[tuple[bytes, ...]] = set()
        kept = []
        for probe in probes:
            words = tuple(fill(step.text, self.names) for step in probe.steps)
            if probe.alone or words not in seen:
                kept.append(probe)
            seen.add(words)
        return kept

    def why_stop(self, broken: int, results: dict[str, Result]) -> str:
        """Why the next probe is not asked; empty where it is."""
        if broken >= MOST_BROKEN:
            return GIVEN_UP
        if time.monotonic() >= self.end:
            return OVER
        plain = results.get(PLAINEST)
        return NOTHING_TO_FIND if plain and plain.word == OPEN else ""

    def ask_patiently(self, probe: Probe) -> Result:
        """Ask; where a conversation goes wrong, once more in a new one."""
        result = self.ask_once(probe)
        again = result.outcome == BROKEN and result.transcript and probe.recipient not in self.sent
        return self.ask_once(probe) if again else result

    def ask_once(self, probe: Probe) -> Result:
        """Ask, with all that stands around it."""
        time.sleep(self.pace.pause)
        hello = fill(probe.hello, self.names) or self.hello
        try:
            conversation = (
                self.connection.fresh(probe.preamble, hello) if probe.alone else self.connection.shared(hello)
            )
        except Lost as lost:
            # No service for who speaks before the greeting is a refusal; for anybody else it is no answer.
            outcome = REFUSED if probe.preamble and lost.greeting.kind == 5 else BROKEN
            return Result(probe, outcome, lost.greeting, probe.preamble, why=str(lost))
        if not probe.alone:
            del conversation.transcript[:]
        answer = self.put(conversation, probe)
        transcript = tuple(conversation.transcript)
        if answer.with_message:
            self.sent.add(probe.recipient)
        if answer.outcome in (BROKEN, SENT) or probe.kind == SMUGGLING:
            self.connection.hang_up()
        else:
            self.connection.finish(keep=not probe.alone)
        return Result(probe, answer.outcome, answer.reply, answer.command, answer.role, transcript, answer.why)

    def put(self, conversation: Conversation, probe: Probe) -> Answer:
        """The question itself, by its kind."""
        if probe.kind == STARTTLS:
            from qmail_smtpd.probe.starttls import ask_starttls  # with ssl, for one probe

            return ask_starttls(conversation)
        if probe.kind == SMUGGLING:
            assert self.mailbox is not None
            return ask_smuggling(conversation, probe, self.names, self.mailbox.inside, self.mailbox.message(probe))
        return ask(conversation, probe, self.names, self.message(probe))

    def message(self, probe: Probe) -> bytes:
        """What to send if the recipient is taken: one message for each kind, to the address that was named."""
        if (
            not (self.mailbox and self.mailbox.address)
            or probe.reading not in (OUTSIDE, OPAQUE, UNCLEAR)
            or probe.recipient in self.sent
        ):
            return b""
        return self.mailbox.message(probe)


def is_hopeless(result: Result) -> bool:
    """Whether the server was not there at all, or silent. One that hangs up on what it does not like is there."""
    return result.outcome == BROKEN and (not result.transcript or result.why == SILENT)
