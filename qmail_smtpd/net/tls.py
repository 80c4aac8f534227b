"""TLS for a Wire: a context from PEM files, the handshake, and records over the wire's own reads and writes.

The only module of a session that imports ssl, and its C half alone: this is SSLContext.wrap_bio without the enums of
the Python half, which would cost a session 9 ms. Knows no SMTP, and not where the files are (certificate.py).

    context = certificate.context()     # raises TlsUnavailable
    tls.accept(wire, context, choose)   # raises TlsBroken: send nothing more to this client
    wire.read(), wire.write(...), ...   # as before; TlsBroken for a record that is not the client's
"""

import _ssl
import sys
from time import monotonic

from qmail_smtpd.net.tls_error import TlsUnavailable, reason
from qmail_smtpd.net.wire import DATA_BLOCK, Closed, TimedOut, TlsBroken, receive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from qmail_smtpd.net.wire import Wire

    Choose = Callable[[str | None], _ssl._SSLContext | None]

OPENSSL_3 = 0x30000000
OP_CLEANSE_PLAINTEXT = 1 << 1  # ssl.h; _ssl has no name for it: OpenSSL wipes what it has decrypted
TLS_1_2 = 0x0303  # ssl.TLSVersion.TLSv1_2
TLS_1_2_NAME = b"TLSv1.2"
RECORD = 16384  # RFC 8446 section 5.1: the most that one record can hold
MISMATCHED = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED")  # the second for keys of different kinds
HANDSHAKE_BLOCK = 8192
HANDSHAKE_SECONDS = 300.0  # the default of Postfix: postconf(5), smtpd_starttls_timeout


def build(certificate: bytes, key: bytes, tickets: bool) -> "_ssl._SSLContext":
    """Return a server context: TLS 1.2 and up, within the system's policy (openssl.cnf), with the system's ciphers.

    `tickets`: whether it sends session tickets. Raises TlsUnavailable.
    """

    def refuse_password() -> "NoReturn":  # otherwise OpenSSL would ask the terminal
        raise TlsUnavailable(key + b" is encrypted: use a key without a password")

    try:
        context = _ssl._SSLContext(_ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = max(context.minimum_version, TLS_1_2)
        # Renegotiation costs the server more work than the client; compression reveals the content (CRIME).
        context.options |= _ssl.OP_NO_RENEGOTIATION | _ssl.OP_NO_COMPRESSION
        if _ssl.OPENSSL_VERSION_NUMBER >= OPENSSL_3:
            context.options |= OP_CLEANSE_PLAINTEXT
        if not tickets:
            context.options |= _ssl.OP_NO_TICKET  # in TLS 1.2
            context.num_tickets = 0  # in TLS 1.3
        context.load_cert_chain(certificate, key, refuse_password)
    except _ssl.SSLError as error:
        if error.reason in MISMATCHED:  # for example a chain in the wrong order
            raise TlsUnavailable(key + b" does not hold the key of the first certificate in " + certificate) from error
        if error.reason is None:  # OpenSSL says only that it was reading PEM
            raise TlsUnavailable((key if is_readable(certificate) else certificate) + b" is broken") from error
        raise TlsUnavailable(b"unable to use " + certificate + b": " + reason(error)) from error
    except OSError as error:
        raise TlsUnavailable(b"unable to read " + certificate + b" or " + key) from error
    return context


def is_readable(certificate: bytes) -> bool:
    """Whether OpenSSL can read the certificates in the file."""
    try:
        _ssl._SSLContext(_ssl.PROTOCOL_TLS_SERVER).load_verify_locations(certificate)
    except _ssl.SSLError:
        return False
    return True


def accept(wire: "Wire", context: "_ssl._SSLContext", choose: "Choose | None" = None) -> "TlsLayer":
    """Switch the wire to TLS. Raises TlsBroken if the handshake fails: nothing more can be sent to the client then.

    `choose` returns the context for the name that the client asks for (SNI), None for `context`.

    Pending output is written first, in clear (which may raise Closed and TimedOut). The caller must drop input that it
    has already read (CVE-2011-0411); the wire itself keeps none.
    """
    wire.flush()
    wire.layer = layer = TlsLayer(wire, context)
    try:
        if choose is None:
            layer.handshake()
        else:
            layer.handshake_by_name(context, choose)
    except TimedOut as error:
        raise TlsBroken(b"timeout in the handshake") from error
    except TlsBroken:
        raise
    except Closed as error:
        raise TlsBroken(b"the client is gone") from error
    return layer


def ignore(_: object) -> None:
    """Take no notice of an exception in a callback: OpenSSL ends the handshake."""


class TlsLayer:
    """The server's end of one TLS connection. `protocol` and `cipher`: OpenSSL's names, set by the handshake."""

    __slots__ = ("at_end", "cipher", "encrypted", "incoming", "outgoing", "protocol", "tls", "wire")

    def __init__(self, wire: "Wire", context: "_ssl._SSLContext") -> None:
        self.wire = wire
        self.incoming, self.outgoing = _ssl.MemoryBIO(), _ssl.MemoryBIO()
        self.tls: Any = context._wrap_bio(self.incoming, self.outgoing, True)  # type: ignore[attr-defined]
        self.encrypted = bytearray()  # records to be written
        self.protocol = self.cipher = b""
        self.at_end = False  # whether read_ready or read_buffered has reached the client's end

    def handshake(self) -> None:
        """Perform the handshake in the time for one read, at most HANDSHAKE_SECONDS.

        The wire's deadline is set to the end of this time, so it limits writes too.
        """
        session_deadline = self.wire.deadline
        deadline = monotonic() + min(self.wire.timeout, HANDSHAKE_SECONDS)
        self.wire.deadline = deadline if session_deadline is None else min(deadline, session_deadline)
        try:
            self.complete_handshake(deadline)
        finally:
            self.wire.deadline = session_deadline

    def handshake_by_name(self, context: "_ssl._SSLContext", choose: "Choose") -> None:
        """Perform the handshake with the context for the name that the client asks for."""

        def callback(tls: "Any", name: str | None, _: object) -> None:
            chosen = choose(name)
            if chosen is not None:
                tls.context = chosen

        hook, sys.unraisablehook = sys.unraisablehook, ignore  # a name in 8-bit bytes would give a traceback in the log
        context.sni_callback = callback
        try:
            self.handshake()
        finally:
            context.sni_callback = None
            sys.unraisablehook = hook

    def complete_handshake(self, deadline: float) -> None:
        """Repeat the handshake's steps until it is complete."""
        while not self.handshake_step():
            if not self.refill(deadline, HANDSHAKE_BLOCK):
                raise Closed
        self.protocol = (self.tls.version() or "").encode()
        cipher = self.tls.cipher()
        self.cipher = cipher[0].encode() if cipher else b""
        if self.protocol == TLS_1_2_NAME:
            self.wire.flush()  # so that later output of OpenSSL's own is about renegotiation (read_record)

    def handshake_step(self) -> bool:
        """Perform one step. Return False if more input is needed."""
        try:
            self.tls.do_handshake()
        except _ssl.SSLWantReadError:
            return False
        except _ssl.SSLError as error:
            self.fail(error)
        return True

    def read(self, seconds: float, size: int) -> bytes:
        """Return at most `size` bytes from the client; empty at its end, with or without close_notify.

        `seconds` is the time for a whole record: a client that sends it byte by byte times out.
        """
        deadline = monotonic() + seconds
        self.wire.check_deadline()
        while (data := self.read_record(size)) is None:
            if not self.refill(deadline, size):
                return b""
        parts = [data]
        remaining = size - len(data)
        while data and remaining > 0 and (data := self.read_record(remaining)):
            parts.append(data)
            remaining -= len(data)
        return b"".join(parts)

    def read_record(self, size: int) -> bytes | None:
        """Return data from the current or next record, empty at close_notify, None if more input is needed."""
        try:
            data: bytes = self.tls.read(min(size, RECORD))
            return data
        except _ssl.SSLWantReadError:
            if self.protocol == TLS_1_2_NAME and self.outgoing.pending:  # OpenSSL's alert against renegotiation
                self.fail(None)
            return None
        except _ssl.SSLError as error:
            self.fail(error)

    def refill(self, deadline: float, size: int) -> bool:
        """Read the descriptor once. Return False at the end of file."""
        self.wire.flush()  # OpenSSL may have an answer of its own, for example to a key update
        remaining = deadline - monotonic()
        if remaining <= 0:
            self.wire.check_deadline()
            raise TimedOut
        self.wire.wait_for_client(remaining)
        data = receive(size)
        self.incoming.write(data)
        return bool(data)

    def read_ready(self) -> bytes | None:
        """Read a readable descriptor once, for a caller with its own poll loop. Return None if no record is complete.

        It leaves no data in OpenSSL's buffer, which would not make the descriptor readable again. `read` may leave
        some: call read_buffered after it.
        """
        data = receive(DATA_BLOCK)
        self.incoming.write(data)
        text = self.read_buffered()
        self.at_end = self.at_end or not data
        return text or (b"" if self.at_end else None)

    def read_buffered(self) -> bytes:
        """Return the data of all complete records that have arrived, without reading the descriptor."""
        parts = []
        while data := self.read_record(RECORD):
            parts.append(data)
        self.at_end = data is not None  # close_notify
        return b"".join(parts)

    def fail(self, error: _ssl.SSLError | None) -> "NoReturn":
        """Send OpenSSL's alert, if the client still reads, and raise TlsBroken."""
        try:
            self.wire.flush()
        except (Closed, TimedOut):
            pass
        raise TlsBroken(reason(error) if error else b"no renegotiation") from error

    def encrypt(self, data: bytearray) -> bytearray:
        """Turn all the data into records, and empty it. Return the records; the caller removes what it has written."""
        try:
            while data:
                del data[: self.tls.write(data)]
        except _ssl.SSLError as error:  # the connection was broken before, and nothing more can be sent
            raise TlsBroken(reason(error)) from error
        self.encrypted += self.outgoing.read()
        return self.encrypted

    def close(self) -> None:
        """Queue the pending output and close_notify. The client's is not waited for (RFC 8446 section 6.1)."""
        self.encrypt(self.wire.pending)
        try:
            self.tls.shutdown()
        except _ssl.SSLError:
            pass  # it wants to read the client's close_notify, or the connection is broken anyway
