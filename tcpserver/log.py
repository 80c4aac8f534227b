"""The log lines of tcpserver, to the byte as 0.88 writes them. Formats only; whoever has descriptor 2 writes them."""

from tcpserver.environ import Facts

LIMIT_ADDRESS = b"limit-address"  # the reason for refusing a client over -C or a rule's MAXCONIP
FIELD_BYTES = 100  # tcpserver.c safecats(): a longer field ends in "..."
SAFE = bytes(c if 33 <= c <= 126 and c not in b"%:" else ord("?") for c in range(256))  # safecats()


def field(value: bytes | None) -> bytes:
    """A value in the form that a log line has between its colons; empty for None. A NUL ends it, as a C string's."""
    if not value:
        return b""
    if b"\0" in value:
        value = value[: value.index(b"\0")]
    if len(value) >= FIELD_BYTES:
        return value[:FIELD_BYTES].translate(SAFE) + b"..."
    return value.translate(SAFE)


def address(text: bytes) -> bytes:
    """An address between colons: IPv6 in brackets, since the fields of the line are split at colons."""
    return b"[%s]" % text if b":" in text else field(text)


class Lines:
    """0.88's text, a method a line. log_json.py has the same methods."""

    def status(self, children: int, limit: int) -> bytes:
        """How many children there are, of how many."""
        return b"tcpserver: status: %d/%d\n" % (children, limit)

    def arrival(self, pid: int, facts: Facts) -> bytes:
        """A client has been accepted, and a process has it."""
        return b"tcpserver: pid %d from %s\n" % (pid, facts.remote_ip)

    def verdict(self, word: bytes, pid: int, facts: Facts, key: bytes | None, reason: bytes = b"") -> bytes:
        """ok or deny (`word`), and both ends. The reason of a limit is our addition, and comes last."""
        return b"tcpserver: %s %d %s:%s:%d %s:%s:%s:%d%s\n" % (
            word,
            pid,
            field(facts.local_host),
            address(facts.local_ip),
            facts.local_port,
            field(facts.remote_host),
            address(facts.remote_ip),
            field(facts.remote_info),
            facts.remote_port,
            reason and b" " + reason,
        )

    def end(self, pid: int, wait_status: int, facts: Facts | None, seconds: float | None) -> bytes:
        """A child's end with its raw wait status: 256 * exit code, or the signal."""
        return b"tcpserver: end %d status %d\n" % (pid, wait_status)

    def dropping(self, what: bytes, why: str, pid: int, facts: Facts | None) -> bytes:
        """The warning for a connection that is given up. 0.88 does not name the client."""
        return b"tcpserver: warning: dropping connection, unable to %s: %s\n" % (what, why.encode())

    def warning(self, text: bytes) -> bytes:
        """Something else that the administrator should know."""
        return b"tcpserver: warning: %s\n" % text

    def nameless(self, key: bytes | None) -> bytes:
        """A rule sets a variable that has no name, which no environment can hold."""
        return self.warning(b"rule %s sets a variable without a name: it is skipped" % field(key))

    def lost(self, lines: int) -> bytes:
        """How many lines could not be written."""
        return self.warning(b"dropped %d log lines: nobody read them" % lines)

    def waiting(self, headers: int, turns: int) -> bytes:
        """The answer to SIGUSR1 with --proxy-from: how many wait for a PROXY header, how many for a free place (-c)."""
        return b"tcpserver: waiting: %d for a PROXY header, %d for their turn\n" % (headers, turns)

    def connected(self, pid: int, facts: Facts, seconds: float) -> bytes:
        """One line of the answer to SIGUSR1."""
        return b"tcpserver: connected %d %s %d seconds\n" % (pid, facts.remote_ip, seconds)
