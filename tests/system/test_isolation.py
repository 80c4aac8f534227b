"""Nothing passes from one client to the next: thousands of mixed sessions at once, each with rules of its own.

Some clients leave in the middle, and some processes are killed. The server runs as its users start it, without options
of ours, so that every process serves one client after the other.
"""

import os
import random
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.kit.mailhome import CONTROL, make_home
from tests.kit.server import PATIENCE, Server, children, compiled
from tests.kit.support import script

SESSIONS = 2000 * int(os.environ.get("EXAMPLES", "1"))
AT_ONCE = 8
ADDRESSES = [f"127.0.1.{number}" for number in range(1, 41)]
COMMANDS = [
    b"EHLO client.example\r\n",
    b"MAIL FROM:<sender@client.example>\r\n",
    b"RCPT TO:<inside@example.com>\r\n",
    b"RCPT TO:<outside@far.example>\r\n",
    b"QUIT\r\n",
]


def rule(number: int) -> str:
    """Return the rule for one address. Each has a size limit of its own, and three of four may relay."""
    relay = (',RELAYCLIENT=""', "", ',RELAYCLIENT="@suffix.example"', ',RELAYCLIENT="x"')[number % 4]
    return f'{ADDRESSES[number]}:allow,DATABYTES="{1000 + number}"{relay}\n'


def expected(number: int) -> list[bytes]:
    """Return the replies that a client at this address gets."""
    outside = b"250 ok" if number % 4 != 1 else b"553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
    offer = b"250-mx.example.org\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE %d" % (1000 + number)
    return [
        line + b"\r\n"
        for line in (b"220 mx.example.org ESMTP", offer, b"250 ok", b"250 ok", outside, b"221 mx.example.org")
    ]


def visit(server: Server, number: int, way: str) -> str:
    """Run one session. Return "whole", or "cut" if the server has ended it early with nothing wrong before."""
    replies = expected(number)
    wanted, got = b"".join(replies), b""
    try:
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE, (ADDRESSES[number], 0)) as client:
            if way == "leaves":
                client.sendall(b"".join(COMMANDS[: 1 + number % 4]))
                return "whole"
            sent = 0
            if way == "pipelines":
                client.sendall(b"".join(COMMANDS))
                sent = len(COMMANDS)
            while len(got) < len(wanted):
                part = client.recv(4096)
                if not part:
                    break
                got += part
                if sent < len(COMMANDS) and got == b"".join(replies[: sent + 1]):
                    client.sendall(COMMANDS[sent])
                    sent += 1
    except ConnectionError:
        pass
    assert wanted.startswith(got), (ADDRESSES[number], way, got)
    return "whole" if got == wanted else "cut"


@pytest.mark.slow
@pytest.mark.parametrize("kills", [False, True], ids=["", "with kills"])
def test_every_session_has_its_own_rules_and_no_others(tmp_path: Path, kills: bool) -> None:
    home = make_home(tmp_path / "home", CONTROL)
    cdb = compiled(tmp_path / "cdb", "".join(map(rule, range(len(ADDRESSES)))))
    words = ["-q", "-RHl0", "-x", str(cdb), "127.0.0.1", "0", script("qmail-smtpd")]
    chance = random.Random(20261129)
    plan = [
        (chance.randrange(len(ADDRESSES)), chance.choices(["pipelines", "talks", "leaves"], [5, 4, 1])[0])
        for _ in range(SESSIONS)
    ]
    with Server(words, environ={"QMAILHOME": str(home), "SMTPD_LOG": "none"}) as server:
        done = threading.Event()

        def kill() -> int:
            killed = 0
            while not done.wait(0.02):
                for pid in children(server.pid)[:1]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed += 1
            return killed

        with ThreadPoolExecutor(AT_ONCE + 1) as pool:
            killer = pool.submit(kill) if kills else None
            try:
                results = list(pool.map(lambda one: visit(server, *one), plan))
            finally:
                done.set()
            killed = killer.result() if killer else 0
    cut = results.count("cut")
    assert cut <= killed
    assert killed > 10 or not kills
