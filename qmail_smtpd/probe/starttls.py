"""TLS as a client over a conversation's transport, only to find out whether plaintext is executed within TLS.

The certificate is not verified, because it does not matter here.
"""

import ssl
import time

from qmail_smtpd.probe.ask import UNPREPARED, Answer, executed_one, is_in_step, last_replies
from qmail_smtpd.probe.conversation import OUT_OF_STEP, Conversation
from qmail_smtpd.probe.judge import BROKEN, LATER, REFUSED, TAKEN
from qmail_smtpd.probe.probes import FORGED, OPTIONAL
from qmail_smtpd.probe.transport import ConnectionLost, TimedOut, Transport

READY = 220
INJECTED = b"STARTTLS\r\nNOOP"  # in one write: RFC 3207 section 4.2 requires the server to discard the NOOP
INJECTION = b"NOOP, sent before TLS"
BLOCK = 16384


class Tls:
    """A transport over another transport."""

    def __init__(self, transport: Transport, deadline: float) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.transport = transport
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        while not self.handshake_step(deadline):
            pass

    def handshake_step(self, deadline: float) -> bool:
        """Do one step of the handshake. Return True at its end. Raise ConnectionLost, TimedOut, ssl.SSLError."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self.flush(deadline)
            self.incoming.write(self.transport.receive(deadline))
            return False
        self.flush(deadline)
        return True

    def flush(self, deadline: float) -> None:
        """Send what TLS has queued."""
        data = self.outgoing.read()
        if data:
            self.transport.send(data, deadline)

    def send(self, data: bytes, deadline: float) -> None:
        try:
            self.tls.write(data)
        except ssl.SSLError as error:
            raise ConnectionLost from error
        self.flush(deadline)

    def receive(self, deadline: float) -> bytes:
        while True:
            try:
                data = self.tls.read(BLOCK)
            except ssl.SSLWantReadError:
                self.incoming.write(self.transport.receive(deadline))
                continue
            except ssl.SSLError as error:
                raise ConnectionLost from error
            if not data:
                raise ConnectionLost
            return data

    def close(self) -> None:
        self.transport.close()


def ask_starttls(conversation: Conversation) -> Answer:
    """Send STARTTLS and a NOOP at once, do the handshake, then send a command that is always refused, and QUIT.

    Any other reply than those to these two can only be for the NOOP, which was sent before TLS.
    """
    reply = conversation.command(INJECTED)
    if reply.kind in (4, 5):  # 4: later it may begin TLS
        return Answer(REFUSED if reply.kind == 5 else LATER, reply, b"STARTTLS", OPTIONAL)
    if reply.code != READY or reply.failure:
        return Answer(BROKEN, reply, b"STARTTLS", OPTIONAL, reply.failure or UNPREPARED)
    if conversation.buffer:  # the NOOP was answered before TLS
        return Answer(BROKEN, reply, b"STARTTLS", OPTIONAL, "a reply between STARTTLS and TLS")
    try:
        conversation.transport = Tls(conversation.transport, time.monotonic() + conversation.timeout)
    except (ConnectionLost, TimedOut, ssl.SSLError) as error:
        return Answer(BROKEN, reply, b"STARTTLS", OPTIONAL, f"no TLS: {type(error).__name__}")
    replies = last_replies(conversation)
    if executed := executed_one(replies):
        return Answer(TAKEN, executed, INJECTION, FORGED)
    if is_in_step(replies):
        return Answer(REFUSED, replies[0], INJECTION, FORGED)
    return Answer(BROKEN, replies[0], INJECTION, FORGED, replies[0].failure or OUT_OF_STEP)
