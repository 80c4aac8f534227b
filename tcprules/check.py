"""What tcprulescheck does: open rules files, judge clients, print. The words of its command line are for cli.py."""

import os
from collections.abc import Callable, Iterator

from tcprules.dump import comment, rule_text
from tcprules.install import Unable, trying
from tcprules.lines import read_lines
from tcprules.lookup import Verdict, judge, open_rules
from tcprules.replay import Client, replay
from tcprules.report import explained, shown, traced

DEFAULT_IP = b"0.0.0.0"  # tcprulescheck.c
AT_ONCE = 1 << 16  # bytes of output to collect before they are written


class Output:
    """Descriptor 1, buffered. Raises Unable."""

    def __init__(self) -> None:
        self._texts: list[bytes] = []
        self._size = 0

    def write(self, text: bytes) -> None:
        """Write it, now or later."""
        self._texts.append(text)
        self._size += len(text)
        if self._size >= AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what is left."""
        text = b"".join(self._texts)
        self._texts, self._size = [], 0
        with trying(b"write output"):
            while text:
                text = text[os.write(1, text) :]


def client_in_environment() -> Client:
    """The client that the UCSPI variables name."""
    get = os.environb.get
    return Client(get(b"TCPREMOTEIP", DEFAULT_IP), get(b"TCPREMOTEHOST"), get(b"TCPREMOTEINFO"))


def judge_by(file: bytes) -> Callable[[Client], Verdict]:
    """Open a rules file to judge clients by. What is returned raises Unable too."""
    with trying(b"read " + file):
        rules = open_rules(file)

    def verdict(client: Client) -> Verdict:
        with trying(b"read " + file):
            return judge(rules, client.ip, client.host, client.info)

    return verdict


def check(file: bytes, out: Output) -> int:
    """Print what these rules say about the client in the environment, as 0.88: nobody asks whether that succeeds."""
    out.write(shown(judge_by(file)(client_in_environment())))
    try:
        out.flush()
    except Unable:
        pass
    return 0


def explain(file: bytes, source: bytes | None, out: Output) -> int:
    """The same after the keys that were tried and the line that made the rule. Raises BadLine."""
    verdict = judge_by(file)(client_in_environment())
    out.write(explained(verdict))
    if source is not None:
        with trying(b"read " + source):
            lines = read_lines(os.open(source, os.O_RDONLY | os.O_CLOEXEC))
            out.write(traced(verdict, source, lines))
    out.write(shown(verdict))
    return 0


def dump(file: bytes, out: Output) -> int:
    """Print rules that compile to the records of this file. 1 if there was one that no rule makes: it is a comment."""
    status = 0
    with trying(b"read " + file):
        for key, data in open_rules(file).records():
            line = rule_text(key, data)
            if line is None:
                status = 1
                line = comment(key, data)
            out.write(line + b"\n")
    return status


def replay_input(file: bytes, against: bytes | None, out: Output) -> int:
    """Print what these rules do to the clients of the log on descriptor 0, or what they change."""
    for line in replay(_input(), judge_by(file), judge_by(against) if against is not None else None):
        out.write(line + b"\n")
    return 0


def _input() -> Iterator[bytes]:
    with trying(b"read input"):
        yield from read_lines(0)
