"""Several hosts and one Redis: what is granted over all of them, also if the server is killed and loses what it had."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from qmail_smtpd.relay.counters import LOGIN, Key
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.kinds import open_counters
from qmail_smtpd.relay.settings import Settings
from tests.kit.counting import started
from tests.kit.peers.ownnetwork import Network
from tests.kit.peers.redisserver import RedisServer
from tests.kit.relayhome import Home
from tests.kit.server import PATIENCE, Server, needs_root, until
from tests.kit.support import script
from tests.qmail_smtpd.relay.test_limited_sessions import AWAY, HOME, MAIL, Site

pytestmark = [pytest.mark.peer, pytest.mark.slow]
JOE = Key(LOGIN, b"joe")
PROCESSES = 8
LIMIT = 240

# Sends as joe until a recipient is refused. Prints how many were accepted, and the code of the refusal.
SENDING = """
import base64, socket, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60)
replies = client.makefile("rb")
def ask(line):
    client.sendall(line.encode() + b"\\r\\n")
    while (reply := replies.readline())[3:4] == b"-":
        pass
    return reply[:3]
replies.readline()
ask("EHLO x")
assert ask("AUTH PLAIN " + base64.b64encode(b"\\0joe\\0secret").decode()) == b"235"
ask("MAIL FROM:<s@s.test>")
accepted = 0
while (code := ask("RCPT TO:<a@away.test>")) == b"250":
    accepted += 1
    if accepted % 7 == 0:
        ask("RSET")
        ask("MAIL FROM:<s@s.test>")
print(accepted, code.decode())
"""


# Sends its second argument, and prints the replies.
ASKING = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 60) as client:
    client.sendall(sys.argv[2].encode())
    for line in client.makefile():
        print(line[:3], end=" ")
"""


@needs_root
def test_two_hosts_send_exactly_the_limit_for_one_login(tmp_path: Path) -> None:
    options = "--protected-mode", "no"
    with Network(2) as network, RedisServer(tmp_path, *options, address=network.address(0), on=network.on(0)) as redis:
        limits = f"joe: {LIMIT}/86400\n.: 9/60\n"
        sites = [Site(tmp_path / name, limits, relaystore=f"{redis.url}\n") for name in ("a", "b")]
        environs = [{"QMAILHOME": str(site.home), "SMTPAUTHFILE": str(site.users), "RELAYCLIENT": ""} for site in sites]
        words = ["-RHl0", "127.0.0.1", "0", script("qmail-smtpd")]
        first, second = (Server(words, environ=environs[n], before=network.on(n + 1)) for n in range(2))
        with first, second:
            clients = [
                subprocess.Popen(
                    [*network.on(1 + number % 2), sys.executable, "-c", SENDING, str(server.port)],
                    stdout=subprocess.PIPE,
                )
                for number, server in enumerate([first, second] * (PROCESSES // 2))
            ]
            results = [client.communicate(timeout=60)[0].split() for client in clients]
            assert sum(int(accepted) for accepted, _ in results) == LIMIT
            assert {code for _, code in results} == {b"452"}
            network.unplug()
            for number, server in enumerate((first, second), 1):
                words = [sys.executable, "-c", ASKING, str(server.port), MAIL + AWAY + HOME + "QUIT\r\n"]
                done = subprocess.run([*network.on(number), *words], capture_output=True, timeout=30, check=True)
                assert done.stdout == b"220 250 451 250 221 "  # although packets get no answer


class Filling:
    """Eight processes that take from one counter until its limit is reached. They wait while the store fails."""

    def __init__(self, url: str, home: Home) -> None:
        home.environ[b"RELAY_STORE"] = url.encode()
        self.home = home
        self.events, self.writer = os.pipe()
        self.resume_read, self.resume_write = os.pipe()
        self.results = started([self.fill] * PROCESSES)

    def fill(self) -> int:
        counters, granted = open_counters(Settings(self.home.environ)), 0
        while True:
            try:
                taken = counters.take(JOE, ((LIMIT, 86400),), 1)[0]
            except StoreError:
                os.write(self.writer, b"x")
                os.read(self.resume_read, 1)
                continue
            if not taken:
                return granted
            granted += 1
            os.write(self.writer, b".")

    def wait_for(self, event: bytes, count: int) -> int:
        """Return how many were granted before so many events."""
        granted = 0
        while count:
            assert select.select([self.events], [], [], PATIENCE)[0], (event, count, granted)
            byte = os.read(self.events, 1)
            granted += byte == b"."
            count -= byte == event
        return granted

    def go_on(self) -> int:
        """Let the processes go on, and return what all of them were granted from first to last."""
        os.write(self.resume_write, b"g" * PROCESSES)
        granted = sum(self.results())
        for descriptor in (self.events, self.writer, self.resume_read, self.resume_write):
            os.close(descriptor)
        return granted


@pytest.mark.parametrize(
    ("options", "keeps"),
    [
        (["--appendonly", "yes", "--appendfsync", "always"], True),
        (["--appendonly", "yes", "--appendfsync", "everysec"], None),  # all, unless its disk is slow
        (["--appendonly", "no"], False),
    ],
    ids=["always", "everysec", "memory"],
)
def test_a_killed_server_grants_no_more_than_the_limit_and_what_it_lost(
    tmp_path: Path, options: list[str], keeps: bool | None
) -> None:
    with RedisServer(tmp_path, *options) as redis:
        filling = Filling(redis.url, Home(tmp_path / "home"))
        granted = filling.wait_for(b".", LIMIT // 3)
        redis.kill()
        granted += filling.wait_for(b"x", PROCESSES)  # nobody was granted anything any more
        redis.start()
        until(lambda: redis.client().ping())  # it has read its files
        kept = open_counters(Settings(filling.home.environ)).used([(JOE, 86400)])[0]
        if keeps is not None:
            assert kept >= granted if keeps else kept == 0
        lost = max(granted - kept, 0)
        unanswered = max(kept - granted, 0)  # counted, but the answer was on its way
        assert unanswered <= PROCESSES
        assert filling.go_on() == LIMIT + lost - unanswered
