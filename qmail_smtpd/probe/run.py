"""One run against one server: the controls, then each probe, followed by RSET and a pause.

A probe whose connection fails is repeated once on a new one, and a probe with a 4xx is repeated at the end. A reply
that is still missing is passed on as such: nothing is guessed here.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from qmail_smtpd.probe import controls
from qmail_smtpd.probe.ask import UNACCEPTED, Answer, ask, ask_smuggling
from qmail_smtpd.probe.connection import Connection, Dial, NoConversation, Pace
from qmail_smtpd.probe.conversation import SILENT, Conversation
from qmail_smtpd.probe.judge import (
    BROKEN,
    FINAL_CONTROL,
    LATER,
    OPEN,
    PLAIN_CASE,
    PLAIN_CASE_ACCEPTED,
    REFUSED,
    SENT,
    SKIPPED,
    Control,
    Result,
)
from qmail_smtpd.probe.mailbox import Mailbox
from qmail_smtpd.probe.probes import (
    DECIDES,
    OPAQUE,
    OUTSIDE,
    SMUGGLING,
    STARTTLS,
    UNCLEAR,
    Names,
    Probe,
    Step,
    fill,
)
from qmail_smtpd.probe.tricks import MAIL

MAX_BROKEN = 3  # probes in a row without a reply, after which the run is given up
CONTROLS_FAILED = "not asked: see the controls"
BLOCKED = "at the end it refused a recipient that it had accepted before: it may have blocked this client"
TIME_OVER = "not asked: the time limit is reached"
GIVEN_UP = "not asked: the server no longer answers"
NO_MESSAGE = "it refuses the message without the false end as well"


class Plan(NamedTuple):
    """The parameters of a run."""

    hello: bytes  # our name in EHLO
    names: Names
    host: str = ""  # the host as it was typed
    pace: Pace = Pace()
    mailbox: Mailbox | None = None


class Examination(NamedTuple):
    """The results of a run."""

    names: Names
    controls: tuple[Control, ...]
    results: tuple[Result, ...]


Progress = Callable[[int, int, str], None]  # done, of how many, what


class Run:
    """The state of a run. The first attempt to connect may raise NoConnection, later ones do not."""

    def __init__(self, dial: Dial, plan: Plan) -> None:
        self.hello, self.names, self.host, self.pace, self.mailbox = plan
        self.connection = Connection(dial, self.pace)
        self.end = time.monotonic() + self.pace.total
        self.sent: set[str] = set()
        self.accepts_messages: bool | None = None  # whether it accepts the message of smuggling without a false end

    def examine(self, probes: Sequence[Probe], listed: Sequence[bytes], progress: Progress) -> Examination:
        """Run the controls and the probes.

        `listed` has the domains or addresses to try as accepted ones. If it is empty, the server's own names are tried.
        """
        try:
            progress(0, len(probes), "controls")
            found = self.run_controls(listed)
            if self.may_continue(found):
                results = self.ask_all(self.distinct(probes), progress)
                found += self.run_final_control(results)
            else:
                results = [Result(probe, SKIPPED, why=CONTROLS_FAILED) for probe in probes]
        finally:
            self.connection.close()
        return Examination(self.names, tuple(found), tuple(results))

    def may_continue(self, found: Sequence[Control]) -> bool:
        """Whether the probes may follow: all controls passed, or any recipient is accepted and a message can decide."""
        failed = {control.name for control in found if not control.passed}
        return not failed or (failed == {controls.RECIPIENTS} and bool(self.mailbox))

    def run_controls(self, listed: Sequence[bytes]) -> list[Control]:
        """Run the controls, and once more if one gets a 4xx. Afterwards the names are known."""
        found = self.run_controls_once(listed)
        if any(control.reply.kind == 4 for control in found) and self.wait():
            found = self.run_controls_once(listed)
        return found

    def run_controls_once(self, listed: Sequence[bytes]) -> list[Control]:
        """Run the controls in one conversation."""
        try:
            conversation = self.connection.shared(self.hello)
        except NoConversation as error:
            return [Control(controls.GREETING, False, str(error), error.greeting)]
        greeting = Control(controls.GREETING, True, "received", conversation.greeting)
        self.names = self.names._replace(me=controls.own_name(conversation.greeting, self.names.me))
        command = controls.ask_command(conversation)
        domains = listed or controls.candidates(self.names, self.host)
        taken, self.names = controls.ask_listed(conversation, self.names, domains)
        found = [greeting, command, taken]
        if taken.passed:
            found.append(self.ask_recipients(conversation))
        self.end_connection(found)
        return found

    def ask_recipients(self, conversation: Conversation) -> Control:
        """Send the impossible recipients, on new connections if the server closes one."""
        try:
            return controls.ask_recipients(conversation, lambda: self.connection.fresh(b"", self.hello), self.names)
        except NoConversation as error:
            return Control(controls.RECIPIENTS, False, str(error), error.greeting)

    def run_final_control(self, results: Sequence[Result]) -> list[Control]:
        """Send the listed recipient again, which must still be accepted.

        A server that has blocked this client refuses everything.
        """
        if not any(result.outcome == REFUSED for result in results):
            return []
        control = self.ask_listed()
        if control.reply.kind == 4 and self.wait():
            control = self.ask_listed()
        self.end_connection([control])
        why = control.why if control.passed else f"{BLOCKED}: {control.why}"
        return [control._replace(name=FINAL_CONTROL, why=why)]

    def end_connection(self, found: Sequence[Control]) -> None:
        """Close the connection, after RSET if the controls passed."""
        if all(control.passed for control in found):
            self.connection.reset()
        self.connection.close()

    def ask_listed(self) -> Control:
        """Send the listed recipient on a new connection."""
        try:
            conversation = self.connection.fresh(b"", self.hello)
        except NoConversation as error:
            return Control(controls.LISTED, False, str(error), error.greeting)
        return controls.ask_listed(conversation, self.names, [self.names.inside])[0]

    def wait(self) -> bool:
        """Wait before a repetition, and close the connection. Return False if there is not enough time left."""
        if time.monotonic() + self.pace.again >= self.end:
            return False
        self.connection.close()
        time.sleep(self.pace.again)
        return True

    def ask_all(self, probes: Sequence[Probe], progress: Progress) -> list[Result]:
        """Send each probe once, and those with a 4xx once more at the end.

        Return the results in the order of the probes.
        """
        results: dict[str, Result] = {}
        broken = 0
        for number, probe in enumerate(probes):
            progress(number, len(probes), probe.name)
            why = self.why_stop(broken, results)
            results[probe.name] = Result(probe, SKIPPED, why=why) if why else self.ask_with_retry(probe)
            if not why:
                broken = broken + 1 if is_hopeless(results[probe.name]) else 0
        later = [result.probe for result in results.values() if result.outcome == LATER]
        if later:
            progress(len(probes), len(probes), "waiting before a repetition")
            waited = self.wait()
            for probe in later if waited else ():
                if time.monotonic() < self.end:
                    results[probe.name] = self.ask_with_retry(probe)
        return list(results.values())

    def distinct(self, probes: Sequence[Probe]) -> list[Probe]:
        """Return the probes without duplicates: if a listed domain is the server's name, some are the same commands."""
        seen: set[tuple[bytes, ...]] = set()
        kept = []
        for probe in probes:
            words = tuple(fill(step.text, self.names) for step in probe.steps)
            if probe.alone or words not in seen:
                kept.append(probe)
            seen.add(words)
        return kept

    def why_stop(self, broken: int, results: dict[str, Result]) -> str:
        """Return why the next probe is not sent, or ""."""
        if broken >= MAX_BROKEN:
            return GIVEN_UP
        if time.monotonic() >= self.end:
            return TIME_OVER
        plain = results.get(PLAIN_CASE)
        return PLAIN_CASE_ACCEPTED if plain and plain.word == OPEN else ""

    def ask_with_retry(self, probe: Probe) -> Result:
        """Send the probe, and once more in a new conversation if the first one broke."""
        result = self.ask_once(probe)
        may_retry = result.outcome == BROKEN and result.transcript and probe.recipient not in self.sent
        return self.ask_once(probe) if may_retry else result

    def ask_once(self, probe: Probe) -> Result:
        """Wait for the pause, send the probe, and prepare the connection for the next one."""
        time.sleep(self.pace.pause)
        hello = fill(probe.hello, self.names) or self.hello
        try:
            conversation = (
                self.connection.fresh(probe.preamble, hello) if probe.alone else self.connection.shared(hello)
            )
        except NoConversation as error:
            # A refused preamble is the result of the probe; otherwise a refused session is no reply to the probe.
            outcome = REFUSED if probe.preamble and error.greeting.kind == 5 else BROKEN
            return Result(probe, outcome, error.greeting, probe.preamble, why=str(error))
        if not probe.alone:
            del conversation.transcript[:]
        answer = self.ask_by_kind(conversation, probe)
        transcript = tuple(conversation.transcript)
        if answer.with_message:
            self.sent.add(probe.recipient)
        if answer.outcome in (BROKEN, SENT) or probe.kind == SMUGGLING:
            self.connection.close()
        else:
            self.connection.finish(keep=not probe.alone)
        return Result(probe, answer.outcome, answer.reply, answer.command, answer.role, transcript, answer.why)

    def ask_by_kind(self, conversation: Conversation, probe: Probe) -> Answer:
        """Send the probe in the way of its kind."""
        if probe.kind == STARTTLS:
            from qmail_smtpd.probe.starttls import ask_starttls  # imports ssl, for one probe

            return ask_starttls(conversation)
        if probe.kind == SMUGGLING:
            return self.ask_smuggling(conversation, probe)
        return ask(conversation, probe, self.names, self.message(probe))

    def ask_smuggling(self, conversation: Conversation, probe: Probe) -> Answer:
        """Send a message with a false end. If it is refused, the same message without one must be accepted."""
        assert self.mailbox is not None
        to = self.mailbox.inside
        answer = ask_smuggling(conversation, probe, self.names, to, self.mailbox.message(probe))
        if answer.outcome != UNACCEPTED:
            return answer
        if self.accepts_messages is None:
            self.accepts_messages = self.send_plainly(probe, to)
        if not self.accepts_messages:
            return answer._replace(outcome=BROKEN, why=NO_MESSAGE)
        return answer._replace(outcome=REFUSED)

    def send_plainly(self, probe: Probe, to: bytes) -> bool:
        """Send the message of a smuggling probe without its false end. Return whether it is accepted."""
        assert self.mailbox is not None
        plain = probe._replace(name=f"{probe.group}/none", steps=(MAIL, Step(b"RCPT TO:<" + to + b">", DECIDES)))
        try:
            conversation = self.connection.fresh(b"", self.hello)
        except NoConversation:
            return False
        return ask(conversation, plain, self.names, self.mailbox.message(plain)).outcome == SENT

    def message(self, probe: Probe) -> bytes:
        """Return the message to send if the recipient is accepted, or b"".

        One message is sent for each kind of probe.
        """
        if (
            not (self.mailbox and self.mailbox.address)
            or probe.reading not in (OUTSIDE, OPAQUE, UNCLEAR)
            or probe.recipient in self.sent
        ):
            return b""
        return self.mailbox.message(probe)


def is_hopeless(result: Result) -> bool:
    """Whether the server was unreachable or silent. A server that disconnects after a probe is still reachable."""
    return result.outcome == BROKEN and (not result.transcript or result.why == SILENT)
