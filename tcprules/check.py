"""The work of tcprulescheck: open rules files, judge clients, print. Its command line is in cli.py."""

import os
from collections.abc import Callable, Iterator

from tcprules import audit, hostnet
from tcprules.dump import comment, rule_text
from tcprules.install import Unable, trying
from tcprules.lines import read_file, read_lines
from tcprules.lookup import Verdict, judge, keys, open_rules
from tcprules.replay import Client, replay
from tcprules.report import format_keys, format_source, format_verdict

DEFAULT_IP = b"0.0.0.0"  # tcprulescheck.c
DEFAULT_CDB = b"/etc/tcp.smtp.cdb"  # for --audit without a file: most hosts have it there
BUFFER_SIZE = 1 << 16  # bytes of output that are collected before a write


class Output:
    """Descriptor 1, buffered. Its methods raise Unable."""

    def __init__(self) -> None:
        self._texts: list[bytes] = []
        self._size = 0

    def write(self, text: bytes) -> None:
        """Write the text, now or later."""
        self._texts.append(text)
        self._size += len(text)
        if self._size >= BUFFER_SIZE:
            self.flush()

    def flush(self) -> None:
        """Write the buffered text."""
        text = b"".join(self._texts)
        self._texts, self._size = [], 0
        with trying(b"write output"):
            while text:
                text = text[os.write(1, text) :]


def client_in_environment() -> Client:
    """Return the client that the UCSPI variables describe."""
    get = os.environb.get
    return Client(get(b"TCPREMOTEIP", DEFAULT_IP), get(b"TCPREMOTEHOST"), get(b"TCPREMOTEINFO"))


def open_judge(file: bytes) -> Callable[[Client], Verdict]:
    """Open a rules file, and return the function that judges clients by it. Both raise Unable."""
    with trying(b"read " + file):
        rules = open_rules(file)

    def verdict(client: Client) -> Verdict:
        with trying(b"read " + file):
            return judge(rules, client.ip, client.host, client.info)

    return verdict


def check(file: bytes, out: Output) -> int:
    """Print the verdict for the client in the environment. As in 0.88, a failed write is ignored."""
    out.write(format_verdict(open_judge(file)(client_in_environment())))
    try:
        out.flush()
    except Unable:
        pass
    return 0


def explain(file: bytes, source: bytes | None, out: Output) -> int:
    """Print the keys that were tried and the line that defines the rule, then the verdict. Raise BadLine."""
    client = client_in_environment()
    verdict = open_judge(file)(client)
    out.write(format_keys(verdict, keys(client.ip, client.host, client.info)))
    if source is not None:
        with trying(b"read " + source):
            out.write(format_source(verdict, source, read_file(source)))
    out.write(format_verdict(verdict))
    return 0


def dump(file: bytes, out: Output) -> int:
    """Print rules that compile to the records of this file.

    Return 1 if a record has no rule and is printed as a comment.
    """
    status = 0
    with trying(b"read " + file):
        for key, data in open_rules(file).records():
            line = rule_text(key, data)
            if line is None:
                status = 1
                line = comment(key, data)
            out.write(line + b"\n")
    return status


def audit_relaying(file: bytes, out: Output) -> int:
    """Print who may relay, and whether this host's gateways and bridges are among them. Return 1 for a warning."""
    status = 0
    judge_client = open_judge(file)
    with trying(b"read " + file):
        rules = open_rules(file)
        for line, is_warning in audit.report(rules.records(), lambda ip: judge_client(Client(ip)), hostnet.read()):
            out.write(line)
            status |= is_warning
    return status


def replay_input(file: bytes, against: bytes | None, out: Output) -> int:
    """Print the verdicts for the clients of the log on descriptor 0, or only those that differ from the older rules."""
    for line in replay(_input(), open_judge(file), open_judge(against) if against is not None else None):
        out.write(line + b"\n")
    return 0


def _input() -> Iterator[bytes]:
    with trying(b"read input"):
        yield from read_lines(0)
