"""Ask another mail server about a recipient by SMTP or LMTP: MAIL FROM:<>, RCPT TO, RSET. No message is sent.

Bounded: one deadline for all of it, and a limit for what the server says.
"""

from time import monotonic

from qmail_smtpd.recipients.program import Undecided

SECONDS = 10.0  # for the whole conversation
CONNECT_SECONDS = 5.0
LONGEST_REPLY = 8192  # bytes, of all lines
LONGEST_PATH = 107  # bytes: sun_path of unix(7), with its NUL
HIGHEST_PORT = 65535
NO_ANSWERS = (503, 552)  # a wrong sequence of commands; the mailbox is full
LMTP, UNIX, INET = b"lmtp:", b"unix:", b"inet:"
FORM = "$RCPTCHECK_SERVER must be inet:ADDRESS:PORT or unix:PATH, for LMTP after lmtp:"


class Server:
    """Where a server listens, and whether it speaks LMTP. Raises Undecided for a text that cannot be read."""

    __slots__ = ("address", "is_lmtp", "is_unix")

    def __init__(self, text: bytes) -> None:
        self.is_lmtp = text.startswith(LMTP)
        text = text.removeprefix(LMTP)
        self.is_unix = text.startswith(UNIX)
        self.address: bytes | tuple[str, int] = self.unix(text) if self.is_unix else self.inet(text)

    def unix(self, text: bytes) -> bytes:
        """Return the path of a socket."""
        path = text.removeprefix(UNIX)
        if not 0 < len(path) <= LONGEST_PATH:
            raise Undecided(FORM)
        return path

    def inet(self, text: bytes) -> tuple[str, int]:
        """Return address and port. A name would have to be looked up, which has no bound in time."""
        host, _, port = text.removeprefix(INET).rpartition(b":")
        host = host[1:-1] if host.startswith(b"[") and host.endswith(b"]") else host
        if not text.startswith(INET) or not port.isdigit() or len(port) > len(b"%d" % HIGHEST_PORT):
            raise Undecided(FORM)
        if not 0 < int(port) <= HIGHEST_PORT or host.translate(None, b"0123456789abcdefABCDEF.:"):
            raise Undecided(FORM)
        return host.decode(), int(port)


class Conversation:
    """A connection to a server. Every method raises Undecided, also after the deadline."""

    __slots__ = ("connection", "deadline", "lines", "received")

    def __init__(self, server: Server, deadline: float | None) -> None:
        import socket

        start = monotonic()
        self.deadline = start + SECONDS if deadline is None else min(start + SECONDS, deadline)
        self.received = b""
        self.lines: list[bytes] = []  # of the last reply, without their codes
        family = socket.AF_UNIX if server.is_unix else socket.AF_INET6 if b":" in host_of(server) else socket.AF_INET
        try:
            self.connection: socket.socket = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise failure("unable to make a socket", error) from error
        try:
            self.connection.settimeout(max(0.001, min(CONNECT_SECONDS, self.deadline - start)))
            self.connection.connect(server.address)
        except OSError as error:
            self.close()
            raise failure("unable to connect to the server", error) from error

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def wait(self) -> None:
        """Let the next operation wait until the deadline. Raises TimeoutError after it."""
        remaining = self.deadline - monotonic()
        if remaining <= 0:
            raise TimeoutError
        self.connection.settimeout(remaining)

    def ask(self, command: bytes) -> int:
        """Send a command and return the code of the reply."""
        try:
            self.wait()
            self.connection.sendall(command + b"\r\n")
            return self.reply()
        except OSError as error:
            raise failure("unable to talk to the server", error) from error

    def greeting(self) -> int:
        """Return the code of the server's first reply."""
        try:
            return self.reply()
        except OSError as error:
            raise failure("unable to talk to the server", error) from error

    def reply(self) -> int:
        """Read a reply, and return its code. Raises OSError too."""
        size, self.lines = 0, []
        while True:
            line = self.line(LONGEST_REPLY - size)
            size += len(line)
            if not line[:3].isdigit() or line[3:4] not in (b" ", b"-", b"\r", b"\n"):
                raise Undecided("the server gives no SMTP reply")
            self.lines.append(line[4:].strip())
            if line[3:4] != b"-":
                return int(line[:3])

    def line(self, limit: int) -> bytes:
        """Read a line with its end. Raises OSError too."""
        while b"\n" not in self.received:
            if len(self.received) > limit:
                raise Undecided("the server's reply is too long")
            self.wait()
            part = self.connection.recv(1024)
            if not part:
                raise Undecided("the server has closed the connection")
            self.received += part
        line, newline, self.received = self.received.partition(b"\n")
        if len(line) > limit:
            raise Undecided("the server's reply is too long")
        return line + newline


def host_of(server: Server) -> bytes:
    """Return the IP address as bytes, empty for a path."""
    return b"" if isinstance(server.address, bytes) else server.address[0].encode()


def failure(what: str, error: OSError) -> Undecided:
    """Return the exception for an error of the connection."""
    from tcprules.strerr import reason

    return Undecided(f"{what}: {'timed out' if isinstance(error, TimeoutError) else reason(error)}")


def accepts(server: Server, me: bytes, mailbox: bytes, deadline: float | None) -> bool:
    """Whether the server accepts the recipient. Raises Undecided, also for 4xx and if it refuses anything before.

    `mailbox`: in RFC 5321's form, or in UTF-8, for which the server must offer SMTPUTF8. `me`: the name for HELO.
    """
    conversation = Conversation(server, deadline)
    try:
        expect(conversation.greeting(), "connection")
        introduce(conversation, server, me)
        parameters = b"" if mailbox.isascii() else b" SMTPUTF8"
        if parameters and not any(line.upper() == b"SMTPUTF8" for line in conversation.lines):
            raise Undecided("the recipient is not ASCII, and the server does not offer SMTPUTF8")
        expect(conversation.ask(b"MAIL FROM:<>" + parameters), "MAIL FROM:<>")
        code = conversation.ask(b"RCPT TO:<" + mailbox + b">")
        if code // 100 not in (2, 5) or code in NO_ANSWERS:
            raise Undecided(f"the server answers {code} to RCPT")
        try:
            conversation.ask(b"RSET")
            conversation.ask(b"QUIT")
        except Undecided:
            pass  # it has answered
        return code // 100 == 2
    finally:
        conversation.close()


def introduce(conversation: Conversation, server: Server, me: bytes) -> None:
    """Send LHLO, or EHLO, and HELO to a server that does not know that. Raises Undecided."""
    code = conversation.ask((b"LHLO " if server.is_lmtp else b"EHLO ") + me)
    if code // 100 == 5 and not server.is_lmtp:
        code = conversation.ask(b"HELO " + me)
    expect(code, "HELO")


def expect(code: int, what: str) -> None:
    """Raise Undecided unless the code is a success."""
    if code // 100 != 2:
        raise Undecided(f"the server answers {code} to {what}")
