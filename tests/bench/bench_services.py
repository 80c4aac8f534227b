"""What policy services and plugins cost: `python tests/bench/bench_services.py [ROUNDS [SESSIONS [QUESTIONS]]]`.

CPU of the server for bench_smtp's session, which has two recipients, all loaded: without control/policyservice and
smtpplugins, with files that name nothing, with a policy service that answers DUNNO at once, and with a plugin that does
nothing (/bin/true, an exec for each recipient). The CPU of the service itself is not counted. One question to the
service in one process, beside a bare exchange of the same bytes on one connection: the time of a round trip. Medians of
ROUNDS.
"""

import os
import select
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench_smtp import OURS, QUICK, SCRIPT, SMTPD, WHERE
from figures import Row, arguments, show
from load import measure

from qmail_smtpd.services.consultant import Consultant
from qmail_smtpd.services.listing import Services
from qmail_smtpd.services.protocol import encode

DUNNO = b"action=DUNNO\n\n"
END = b"\n\n"  # of a question and of an answer
NONE = "no file"
ENVIRON = {b"TCPREMOTEIP": b"192.0.2.1", b"TCPREMOTEHOST": b"client.example"}
QUESTION = {
    b"protocol_name": b"ESMTP",
    b"helo_name": b"client.example",
    b"sender": b"sender@client.example",
    b"recipient": b"one@example.com",
    b"instance": b"1",
    b"size": b"0",
}


@contextmanager
def service() -> Iterator[int]:
    """Run a service that always answers DUNNO, in a process of its own. Yield its port."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        pid = os.fork()
        if not pid:
            try:
                serve(listener)
            finally:
                os._exit(1)
        try:
            yield listener.getsockname()[1]
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def serve(listener: socket.socket) -> None:
    """Answer all clients, until killed."""
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == listener.fileno():
                client = listener.accept()[0]
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client
                poll.register(client, select.EPOLLIN)
            elif received := clients[descriptor].recv(65536):
                if received.endswith(END):
                    clients[descriptor].sendall(DUNNO)
            else:
                clients.pop(descriptor).close()


def microseconds(call: Callable[[], object], count: int) -> float:
    """Return the time of one call."""
    started = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - started) / count * 1e6


def questions(port: int, rounds: int, count: int) -> Row:
    """Measure one question after the other."""
    consultant = Consultant(Services([b"inet:127.0.0.1:%d" % port], open_on_failure=False))
    bytes_of_question = encode(consultant.attributes(QUESTION, ENVIRON))
    ours, bare = [], []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def exchange() -> None:
            connection.sendall(bytes_of_question)
            assert connection.recv(65536) == DUNNO

        for _ in range(rounds):
            ours.append(microseconds(lambda: consultant.consult(QUESTION, ENVIRON, False, None), count))
            bare.append(microseconds(exchange, count))
    return Row("services: one question, time", median(ours), "us", median(bare), "a bare exchange of its bytes")


def home(folder: Path, name: str, **control: str) -> list[str]:
    """Create a qmail home with these control files. Return the command line of its server."""
    path = folder / name.replace(" ", "-")
    (path / "control").mkdir(parents=True)
    for file, text in {"me": "mx.example.com\n", "rcpthosts": "example.com\n", **control}.items():
        (path / "control" / file).write_text(text)
    return ["/usr/bin/env", f"QMAILHOME={path}", "SMTPD_LOG=none", OURS, *QUICK, *WHERE, SMTPD]


def rows(rounds: int, sessions: int, count: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as name, service() as port:
        folder = Path(name)
        lines = {
            NONE: home(folder, NONE),
            "files that name nothing": home(folder, "comments", policyservice="#\n", smtpplugins="#\n"),
            "a policy service": home(folder, "service", policyservice=f"inet:127.0.0.1:{port}\n"),
            "a plugin": home(folder, "plugin", smtpplugins="[rcpt]\n/bin/true\n"),
        }
        time.sleep(2)  # files that have just been written are not cached (control.py, SETTLED)
        figures = measure(lines, rounds, sessions, script=SCRIPT)
        found = [
            Row(f"services: session, {kind}, CPU", figure.cost, "ms", figures[NONE].cost, NONE)
            for kind, figure in figures.items()
            if kind != NONE
        ]
        return [*found, questions(port, rounds, count)]


def main() -> None:
    rounds, sessions, count = arguments(5, 400, 2000)
    show(rows(rounds, sessions, count), f"medians of {rounds} rounds")


if __name__ == "__main__":
    main()
