"""What would these rules have done to yesterday's clients? Log lines -> verdicts, compared with other rules. Pure."""

import re
from collections.abc import Callable, Iterable, Iterator

from tcprules.dump import quoted
from tcprules.lookup import Verdict, canonical
from tcprules.network import ipv4

# ok PID LOCALHOST:LOCALIP:LOCALPORT HOST:IP:INFO:PORT; an IPv6 address stands in brackets (0.88 has none).
LOG_LINE = re.compile(
    rb"(?:^|\s)tcpserver: (?:ok|deny) [^ ]+ [^ ]+ "
    rb"(?P<host>[^ :]*):(?:\[(?P<ip6>[^ \]]*)\]|(?P<ip>[^ :]*)):(?P<info>[^ :]*):[^ :]*(?:\s|$)"
)
LOST = (b"?", b"...")  # tcpserver.c safeappend: what stands for other bytes, and where a long field was cut


class Undecidable(ValueError):
    """The log does not hold what the client was."""


class Client:
    """What the rules look at; None is unset."""

    __slots__ = ("host", "info", "ip")

    def __init__(self, ip: bytes, host: bytes | None = None, info: bytes | None = None) -> None:
        self.ip = ip
        self.host = host
        self.info = info

    def text(self) -> bytes:
        """The address, and the host and info that are set."""
        host = b"" if self.host is None else b" host=" + self.host
        info = b"" if self.info is None else b" info=" + self.info
        return self.ip + host + info


Judge = Callable[[Client], Verdict]


def client(line: bytes) -> Client | None:
    """The client of a line: tcpserver's ok or deny, or a plain address. None for other lines. Raises Undecidable."""
    found = LOG_LINE.search(line)
    if not found:
        words = line.split()
        return _plain(words[0]) if len(words) == 1 else None
    host, info = found["host"] or None, found["info"] or None
    ip = found["ip"] if found["ip6"] is None else found["ip6"]
    if any(lost in field for field in (ip, host, info) if field for lost in LOST):
        raise Undecidable
    return Client(ip, host, info)


def _plain(address: bytes) -> Client:
    text = canonical(address) or address
    if canonical(text) is None and ipv4(text) is None:
        raise Undecidable
    return Client(text)


def replay(lines: Iterable[bytes], judge: Judge, old: Judge | None) -> Iterator[bytes]:
    """A line per client, and a count. With `old` rules: only the clients to whom they did something else."""
    clients = differ = undecidable = 0
    for line in lines:
        try:
            who = client(line)
        except Undecidable:
            undecidable += 1
            continue
        if who is None:
            continue
        clients += 1
        text = verdict_text(judge(who))
        if old:
            before = verdict_text(old(who))
            if before == text:
                continue
            differ += 1
            text = b"%b -> %b" % (before, text)
        yield b"%b: %b" % (who.text(), text)
    changed = b", %d differ" % differ if old else b""
    yield b"%d clients%b, %d not decidable" % (clients, changed, undecidable)


def verdict_text(verdict: Verdict) -> bytes:
    """deny, or allow and the variables as they end up in the environment, written as in a rule."""
    if verdict.deny:
        return b"deny"
    return b"allow" + b"".join(
        b",%b=%b" % (name, quoted(value) or value) for name, value in dict(verdict.environment).items()
    )
