"""Where the commands of a session ask the plugins, and what an outcome does to the session. Pure.

The order of checks, the variables and the replies are those of qmail-spp's patch. Loaded only where there are plugins.
"""

from qmail_smtpd.smtp.outcome import DROP, REJECT
from qmail_smtpd.smtp.policy import rcpt_refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.smtp.outcome import Outcome
    from qmail_smtpd.smtp.session_protocol import SessionProtocol as Session

    Variables = dict[bytes, bytes | None]

CONNECTION, HELO, MAIL, RCPT, DATA, AUTH = b"connection", b"helo", b"mail", b"rcpt", b"data", b"auth"
HELLO, SENDER, RECIPIENT = b"SMTPHELOHOST", b"SMTPMAILFROM", b"SMTPRCPTTO"
COUNT, ATTEMPTS, ALLOWED = b"SMTPRCPTCOUNT", b"SMTPRCPTCOUNTALL", b"SMTPRCPTHOSTSOK"
USER, METHOD = b"SMTPAUTHUSER", b"SMTPAUTHMETHOD"
VARIABLES = (HELLO, SENDER, RECIPIENT, COUNT, ATTEMPTS, ALLOWED, USER, METHOD)
LETTERS = {MAIL: b"M", RCPT: b"R", DATA: b"D"}
LONGEST_HEADERS = 65536  # bytes of all headers of one message
MOST_LATER = 16  # lines for each of MAIL, RCPT and DATA
REFUSALS_BEFORE = (b"rcpthosts", b"relaystrict")  # refused recipients that plugins see, with SMTPRCPTHOSTSOK=0


class Hooks:
    """The plugins' state in one session."""

    __slots__ = ("accepted", "attempts", "client_is_accepted", "headers", "later", "recipients")

    def __init__(self) -> None:
        self.accepted = False  # whether a plugin has asked that no more plugins are run
        self.client_is_accepted = False  # whether one of [connection] has
        self.clear()

    def clear(self) -> None:
        """Forget the results for the transaction: at RSET, and when the message begins (spp_rset)."""
        self.headers = b""
        self.later: dict[bytes, list[bytes]] = {b"M": [], b"R": [], b"D": []}
        self.recipients = self.attempts = 0

    def start_tls(self, session: "Session") -> None:
        """Forget all results except those for the client's address ([connection])."""
        session.backend.set_plugin_variables(dict.fromkeys(VARIABLES))
        self.clear()
        self.accepted = self.client_is_accepted

    def connect(self, session: "Session") -> bool:
        """Whether the client is greeted. Otherwise the session ends."""
        may_go_on = self.ask(session, CONNECTION, {}) is not None
        self.client_is_accepted = self.accepted
        return may_go_on

    def helo(self, session: "Session", name: bytes) -> bool:
        """Whether HELO or EHLO is executed."""
        return self.ask(session, HELO, {HELLO: name}) is not None

    def mail(self, session: "Session", sender: bytes) -> bytes | None:
        """Return the sender, which a plugin may have changed, None if MAIL is not executed."""
        later = self.later_reply(session, MAIL)
        if later is not None:
            session.answer(later)
            return None
        self.recipients = self.attempts = 0
        return self.ask(session, MAIL, {SENDER: sender}, SENDER)

    def rcpt(self, session: "Session", recipient: bytes) -> bytes | None:
        """Return the recipient, which a plugin may have changed, None if RCPT is not executed.

        The caller checks what is returned. Plugins are also asked about recipients that rcpthosts or relaystrict will
        refuse, but not about others that are refused.
        """
        refusal = rcpt_refusal(session.settings, session.envelope, recipient, session.backend.in_morercpthosts)
        if refusal and refusal[1] not in REFUSALS_BEFORE:
            return recipient
        later = self.later_reply(session, RCPT)
        if later is not None:
            session.answer(later)
            return None
        self.attempts += 1
        variables: Variables = {
            COUNT: b"%d" % self.recipients,
            ATTEMPTS: b"%d" % self.attempts,
            ALLOWED: b"0" if refusal else b"1",
            RECIPIENT: recipient,
        }
        return self.ask(session, RCPT, variables, RECIPIENT)

    def data(self, session: "Session") -> bytes | None:
        """Return the reply if DATA, or the first BDAT, is not executed. The session may have ended."""
        later = self.later_reply(session, DATA)
        return self.run(session, DATA, {})[1] if later is None else later

    def auth(self, session: "Session", user: bytes, mechanism: bytes) -> bool:
        """Whether a user whose credentials are right is logged in."""
        if self.ask(session, AUTH, {USER: user, METHOD: mechanism.lower()}) is not None:
            return True
        session.backend.set_plugin_variables({USER: None, METHOD: None})
        return False

    def later_reply(self, session: "Session", section: bytes) -> bytes | None:
        """Return the reply for this command that an earlier plugin has left, None if there is none.

        All lines of it but the last one are sent.
        """
        lines = self.later[LETTERS[section]]
        if not lines:
            return None
        for line in lines[:-1]:
            session.backend.reply(line)
        session.log(b"refused", {b"section": section, b"reason": b"plugin", b"reply": lines[-1].replace(b" ", b"_")})
        return lines[-1]

    def ask(self, session: "Session", section: bytes, variables: "Variables", variable: bytes = b"") -> bytes | None:
        """Run the plugins of the section. Return the address in `variable`, None if the command has ended here."""
        address, reply = self.run(session, section, variables, variable)
        if reply is None:
            return address
        session.answer(reply)
        return None

    def run(
        self, session: "Session", section: bytes, variables: "Variables", variable: bytes = b""
    ) -> tuple[bytes, bytes | None]:
        """Run the plugins of the section. Return the address, and the reply if the command is not executed."""
        address = variables.get(variable) or b""
        session.backend.set_plugin_variables(variables)
        if self.accepted or section not in session.settings.plugins:
            return address, None
        outcome = session.backend.run_plugins(section, variable, address)
        self.take(outcome)
        for line in outcome.printed:
            session.backend.reply(line)
        if not outcome.ending:
            return outcome.address, None
        self.end(session, section, outcome, address)
        return address, outcome.reply

    def take(self, outcome: "Outcome") -> None:
        """Keep what the outcome has for later commands."""
        self.accepted = self.accepted or outcome.is_last
        for header in outcome.headers:
            if len(self.headers) + len(header) < LONGEST_HEADERS:
                self.headers += header + b"\n"
        for letter, line in outcome.later:
            if len(self.later[letter]) < MOST_LATER:
                self.later[letter].append(line)

    def end(self, session: "Session", section: bytes, outcome: "Outcome", address: bytes) -> None:
        """Log why the command ends, and end the session if the outcome says so."""
        facts = {b"sender": address} if section == MAIL else {}
        if section == RCPT:
            session.counts[b"refused"] += 1
            facts = {b"sender": session.envelope.sender or b"", b"recipient": address}
        session.log(b"refused", {**facts, b"section": section, **outcome.facts})
        if outcome.ending in (REJECT, DROP) or section == CONNECTION:
            session.finish(1, outcome.reply, b"plugin")
