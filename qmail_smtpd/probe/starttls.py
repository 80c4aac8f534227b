"""TLS over a conversation's transport, as a client: for the one question whether plain text is obeyed within it.

Nothing is verified: whose certificate it is does not matter here.
"""

import ssl
import time

from qmail_smtpd.probe.ask import NONSENSE_COMMAND, UNPREPARED, Answer
from qmail_smtpd.probe.conversation import Conversation
from qmail_smtpd.probe.judge import BROKEN, REFUSED, TAKEN
from qmail_smtpd.probe.probes import FORGED, MAY
from qmail_smtpd.probe.transport import Gone, Late, Transport

READY = 220
INJECTED = b"STARTTLS\r\nNOOP"  # in one write: RFC 3207 section 4.2 has the server forget the NOOP
BLOCK = 16384


class Tls:
    """A transport within a transport."""

    def __init__(self, transport: Transport, deadline: float) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.transport = transport
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        while not self.shaken(deadline):
            pass

    def shaken(self, deadline: float) -> bool:
        """One step of the handshake. Raises Gone, Late, ssl.SSLError."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self.flush(deadline)
            self.incoming.write(self.transport.receive(deadline))
            return False
        self.flush(deadline)
        return True

    def flush(self, deadline: float) -> None:
        """Send what TLS has to say."""
        data = self.outgoing.read()
        if data:
            self.transport.send(data, deadline)

    def send(self, data: bytes, deadline: float) -> None:
        try:
            self.tls.write(data)
        except ssl.SSLError as error:
            raise Gone from error
        self.flush(deadline)

    def receive(self, deadline: float) -> bytes:
        while True:
            try:
                data = self.tls.read(BLOCK)
            except ssl.SSLWantReadError:
                self.incoming.write(self.transport.receive(deadline))
                continue
            except ssl.SSLError as error:
                raise Gone from error
            if not data:
                raise Gone
            return data

    def close(self) -> None:
        self.transport.close()


def ask_starttls(conversation: Conversation) -> Answer:
    """Send STARTTLS with a command behind it, then TLS, then what is always refused: a yes was for the command."""
    reply = conversation.command(INJECTED)
    if reply.kind in (4, 5):
        return Answer(REFUSED, reply, b"STARTTLS", MAY)
    if reply.code != READY or reply.trouble:
        return Answer(BROKEN, reply, b"STARTTLS", MAY, reply.trouble or UNPREPARED)
    if conversation.buffer:  # the NOOP was answered outside, before TLS
        return Answer(BROKEN, reply, b"STARTTLS", MAY, "an answer between STARTTLS and TLS")
    try:
        conversation.transport = Tls(conversation.transport, time.monotonic() + conversation.timeout)
    except (Gone, Late, ssl.SSLError) as error:
        return Answer(BROKEN, reply, b"STARTTLS", MAY, f"no TLS: {type(error).__name__}")
    trouble = conversation.say(NONSENSE_COMMAND + b"\r\n")
    reply = trouble or conversation.reply()
    outcome = {2: TAKEN, 4: REFUSED, 5: REFUSED}.get(reply.kind, BROKEN)
    return Answer(outcome, reply, b"NOOP, sent before TLS", FORGED, reply.trouble)
