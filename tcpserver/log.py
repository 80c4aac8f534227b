"""The log lines of tcpserver, to the byte as 0.88 writes them. Formats only; whoever has descriptor 2 writes them."""

from tcpserver.environ import Facts

FIELD_BYTES = 100  # tcpserver.c safecats(): a longer field ends in "..."
SAFE = bytes(c if 33 <= c <= 126 and c not in b"%:" else ord("?") for c in range(256))  # safecats()


def field(value: bytes | None) -> bytes:
    """A value as it may stand between the colons of a log line; nothing for None. A NUL ends it, as a C string's."""
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


def status(children: int, limit: int) -> bytes:
    return b"tcpserver: status: %d/%d\n" % (children, limit)


def arrival(pid: int, ip: bytes) -> bytes:
    return b"tcpserver: pid %d from %s\n" % (pid, ip)


def verdict(word: bytes, pid: int, facts: Facts, reason: bytes = b"") -> bytes:
    """The line that says ok or deny (`word`), with who spoke to whom; `reason` is ours and stands last."""
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
        reason,
    )


def end(pid: int, wait_status: int) -> bytes:
    """A child's end with its raw wait status: 256 * exit code, or the signal."""
    return b"tcpserver: end %d status %d\n" % (pid, wait_status)


def dropping(what: bytes, why: str | None = None) -> bytes:
    """The warning for a connection that is given up: `unable to WHAT[: WHY]`."""
    return b"tcpserver: warning: dropping connection, unable to %s%s\n" % (what, b": " + why.encode() if why else b"")
