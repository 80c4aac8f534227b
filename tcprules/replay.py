"""Judge the clients of a log by these rules, and compare the verdicts with those of other rules. Pure."""

import re
from collections.abc import Callable, Iterable, Iterator

from tcprules.audit import may_relay
from tcprules.dump import quote_value
from tcprules.lookup import Verdict, canonical
from tcprules.network import ipv4

# ok PID LOCALHOST:LOCALIP:LOCALPORT HOST:IP:INFO:PORT; an IPv6 address is in brackets (0.88 has no IPv6).
LOG_LINE = re.compile(
    rb"(?:^|\s)tcpserver: (?:ok|deny) [^ ]+ [^ ]+ "
    rb"(?P<host>[^ :]*):(?:\[(?P<ip6>[^ \]]*)\]|(?P<ip>[^ :]*)):(?P<info>[^ :]*):[^ :]*(?:\s|$)"
)
LOSS_MARKS = (b"?", b"...")  # tcpserver.c safeappend: `?` replaces other bytes, `...` ends a cut field


COUNTED_MAX = 100_000  # addresses whose clients are counted: in a log with more, no single one matters


class Undecidable(ValueError):
    """The log line lacks something that the rules depend on."""


class Client:
    """A client as the rules see it. None means unset."""

    __slots__ = ("host", "info", "ip")

    def __init__(self, ip: bytes, host: bytes | None = None, info: bytes | None = None) -> None:
        self.ip = ip
        self.host = host
        self.info = info

    def text(self) -> bytes:
        """Return the address, and the host and info that are set."""
        host = b"" if self.host is None else b" host=" + self.host
        info = b"" if self.info is None else b" info=" + self.info
        return self.ip + host + info


Judge = Callable[[Client], Verdict]


def client(line: bytes) -> Client | None:
    """Return the client of a line (tcpserver's ok or deny, or a plain address), or None. Raise Undecidable."""
    match = LOG_LINE.search(line)
    if not match:
        words = line.split()
        return _plain(words[0]) if len(words) == 1 else None
    host, info = match["host"] or None, match["info"] or None
    ip = match["ip"] if match["ip6"] is None else match["ip6"]
    if any(mark in field for field in (ip, host, info) if field for mark in LOSS_MARKS):
        raise Undecidable
    return Client(ip, host, info)


def _plain(address: bytes) -> Client:
    text = canonical(address) or address
    if canonical(text) is None and ipv4(text) is None:
        raise Undecidable
    return Client(text)


def replay(lines: Iterable[bytes], judge: Judge, old: Judge | None) -> Iterator[bytes]:
    """Yield a line for each client, the share of the address that relays most, and the counts.

    With `old` rules yield only the clients whose verdict differs, and the counts.
    """
    clients = differ = undecidable = 0
    relaying: dict[bytes, int] = {}  # address -> how many of its clients may relay
    for line in lines:
        try:
            log_client = client(line)
        except Undecidable:
            undecidable += 1
            continue
        if log_client is None:
            continue
        clients += 1
        verdict = judge(log_client)
        if may_relay(verdict) and (log_client.ip in relaying or len(relaying) < COUNTED_MAX):
            relaying[log_client.ip] = relaying.get(log_client.ip, 0) + 1
        text = verdict_text(verdict)
        if old:
            before = verdict_text(old(log_client))
            if before == text:
                continue
            differ += 1
            text = b"%b -> %b" % (before, text)
        yield b"%b: %b" % (log_client.text(), text)
    if relaying and not old:
        ip, count = max(relaying.items(), key=lambda item: item[1])
        yield b"%d of %d clients (%d%%) came from %b, which may relay" % (count, clients, 100 * count // clients, ip)
    changed = b", %d differ" % differ if old else b""
    yield b"%d clients%b, %d not decidable" % (clients, changed, undecidable)


def verdict_text(verdict: Verdict) -> bytes:
    """Return deny, or allow and the variables as in the final environment, in the notation of a rule."""
    if verdict.deny:
        return b"deny"
    return b"allow" + b"".join(
        b",%b=%b" % (name, quote_value(value) or value) for name, value in dict(verdict.environment).items()
    )
