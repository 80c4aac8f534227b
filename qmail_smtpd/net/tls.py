"""TLS for a Wire: a context from PEM files, the handshake, and records over the wire's own reads and writes.

The only importer of ssl, and of its C half alone: this is SSLContext.wrap_bio without the enums of the Python half,
which would cost a session 9 ms. Knows no SMTP, and not where the files are (certificate.py).

    context = certificate.context()     # trouble.Trouble
    tls.accept(wire, context)           # Broken: say no more to this client
    wire.read(), wire.write(...), ...   # as before; Broken where a record is not the client's
"""

import _ssl
from time import monotonic

from qmail_smtpd.net.trouble import Trouble, reason
from qmail_smtpd.net.wire import DATA_BLOCK, Broken, Closed, TimedOut, receive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from qmail_smtpd.net.wire import Wire

TLS_1_2 = 0x0303  # ssl.TLSVersion.TLSv1_2
OLD = b"TLSv1.2"
RECORD = 16384  # RFC 8446 section 5.1: what one record can hold
MISMATCHED = ("KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED")  # the second where they are of two kinds
HANDSHAKE_BLOCK = 8192
HANDSHAKE_SECONDS = 300.0  # postconf(5), smtpd_starttls_timeout: as long as another patient server waits


def build(certificate: bytes, key: bytes) -> "_ssl._SSLContext":
    """A context for servers: TLS 1.2 and up, within the system's policy (openssl.cnf), and the system's ciphers.

    Raises trouble.Trouble.
    """

    def password() -> "NoReturn":  # OpenSSL would ask the terminal
        raise Trouble(key + b" is encrypted, and there is nobody to ask for the password")

    try:
        context = _ssl._SSLContext(_ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = max(context.minimum_version, TLS_1_2)
        # A renegotiation has the server work for a client that does not; compression tells what is inside (CRIME).
        context.options |= _ssl.OP_NO_RENEGOTIATION | _ssl.OP_NO_COMPRESSION
        context.load_cert_chain(certificate, key, password)
    except _ssl.SSLError as error:
        if error.reason in MISMATCHED:  # a chain in the wrong order is such a case
            raise Trouble(key + b" does not hold the key of the first certificate in " + certificate) from error
        if error.reason is None:  # OpenSSL says no more than that it was reading PEM
            raise Trouble((key if is_readable(certificate) else certificate) + b" is broken") from error
        raise Trouble(b"unable to use " + certificate + b": " + reason(error)) from error
    except OSError as error:
        raise Trouble(b"unable to read " + certificate + b" or " + key) from error
    return context


def is_readable(certificate: bytes) -> bool:
    """Whether the file holds certificates that are some."""
    try:
        _ssl._SSLContext(_ssl.PROTOCOL_TLS_SERVER).load_verify_locations(certificate)
    except _ssl.SSLError:
        return False
    return True


def accept(wire: "Wire", context: "_ssl._SSLContext") -> "Layer":
    """Make the wire a TLS one, in place. Raises Broken when that comes to nothing: there is nothing to be said then.

    What is pending is written before, as it is (which may raise Closed and TimedOut). What the client has said already
    and the caller still holds must be forgotten (CVE-2011-0411); the wire itself keeps nothing of it.
    """
    wire.flush()
    wire.layer = layer = Layer(wire, context)
    try:
        layer.shake_hands()
    except TimedOut as late:
        raise Broken(b"timeout in the handshake") from late
    except Broken:
        raise
    except Closed as gone:
        raise Broken(b"the client is gone") from gone
    return layer


class Layer:
    """One TLS connection, as its server. `protocol` and `cipher` are OpenSSL's names, known after the handshake."""

    __slots__ = ("cipher", "incoming", "outgoing", "over", "protocol", "records", "sealed", "wire")

    def __init__(self, wire: "Wire", context: "_ssl._SSLContext") -> None:
        self.wire = wire
        self.incoming, self.outgoing = _ssl.MemoryBIO(), _ssl.MemoryBIO()
        self.records: Any = context._wrap_bio(self.incoming, self.outgoing, True)  # type: ignore[attr-defined]
        self.sealed = bytearray()  # records that are to be written
        self.protocol = self.cipher = b""
        self.over = False  # whether take_ready and rest have come to the client's end

    def shake_hands(self) -> None:
        """The handshake, in the time for one read: to the wire it ends the session, so that writing ends then, too."""
        whole = self.wire.deadline
        until = monotonic() + min(self.wire.timeout, HANDSHAKE_SECONDS)
        self.wire.deadline = until if whole is None else min(until, whole)
        try:
            self.complete(until)
        finally:
            self.wire.deadline = whole

    def complete(self, until: float) -> None:
        """Step by step, to its end."""
        while not self.shaken():
            if not self.refill(until, HANDSHAKE_BLOCK):
                raise Closed
        self.protocol = (self.records.version() or "").encode()
        cipher = self.records.cipher()
        self.cipher = cipher[0].encode() if cipher else b""
        if self.protocol == OLD:
            self.wire.flush()  # so that what OpenSSL has to say from now on is about renegotiation (read)

    def shaken(self) -> bool:
        """One step of the handshake. False where the client has to say more."""
        try:
            self.records.do_handshake()
        except _ssl.SSLWantReadError:
            return False
        except _ssl.SSLError as error:
            self.fail(error)
        return True

    def take(self, seconds: float, size: int) -> bytes:
        """What the client says, at most `size` bytes, empty at its end, which need not be announced (close_notify).

        `seconds` are for the whole record: one byte of it now and then does not make a client a live one.
        """
        until = monotonic() + seconds
        self.wire.check_deadline()
        while (data := self.read(size)) is None:
            if not self.refill(until, size):
                return b""
        parts = [data]
        room = size - len(data)
        while data and room > 0 and (data := self.read(room)):
            parts.append(data)
            room -= len(data)
        return b"".join(parts)

    def read(self, size: int) -> bytes | None:
        """What is in the next record, or left of this one. None where the client has to say more."""
        try:
            data: bytes = self.records.read(min(size, RECORD))
            return data
        except _ssl.SSLWantReadError:
            if self.protocol == OLD and self.outgoing.pending:  # its alert for who wants to negotiate again
                self.fail(None)
            return None
        except _ssl.SSLError as error:
            self.fail(error)

    def refill(self, until: float, size: int) -> bool:
        """Read from the descriptor, once. False at the end of file."""
        self.wire.flush()  # an answer of OpenSSL's own, to a change of keys or the like
        left = until - monotonic()
        if left <= 0:
            self.wire.check_deadline()
            raise TimedOut
        self.wire.await_client(left)
        data = receive(size)
        self.incoming.write(data)
        return bool(data)

    def take_ready(self) -> bytes | None:
        """For a loop with a poll of its own: read a descriptor that is readable, once. None where no record is whole.

        It leaves nothing behind for which the descriptor would not become readable again; `take` may (rest).
        """
        data = receive(DATA_BLOCK)
        self.incoming.write(data)
        text = self.rest()
        self.over = self.over or not data
        return text or (b"" if self.over else None)

    def rest(self) -> bytes:
        """Everything that the client has said in records that are whole, without reading the descriptor."""
        parts = []
        while data := self.read(RECORD):
            parts.append(data)
        self.over = data is not None  # its goodbye
        return b"".join(parts)

    def fail(self, error: _ssl.SSLError | None) -> "NoReturn":
        """Tell the client by OpenSSL's alert, if it still listens, and everybody else by Broken."""
        try:
            self.wire.flush()
        except (Closed, TimedOut):
            pass
        raise Broken(reason(error) if error else b"no renegotiation") from error

    def seal(self, data: bytearray) -> bytearray:
        """Make records of all the data, which is empty then. Returns what is to be written; the caller removes it."""
        try:
            while data:
                del data[: self.records.write(data)]
        except _ssl.SSLError as error:  # something was broken before, and nothing can be said any more
            raise Broken(reason(error)) from error
        self.sealed += self.outgoing.read()
        return self.sealed

    def close(self) -> None:
        """Queue what is pending and close_notify. The client's own is not waited for (RFC 8446 section 6.1)."""
        self.seal(self.wire.pending)
        try:
            self.records.shutdown()
        except _ssl.SSLError:
            pass  # it wants to read the client's, or the connection is broken anyway
