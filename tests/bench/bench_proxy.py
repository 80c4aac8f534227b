"""SMTP sessions through haproxy, with the PROXY header and without it: `bench_proxy.py [ROUNDS [CONNECTIONS]]`.

haproxy -> tcpserver -x rules -> qmail-smtpd, 20 clients at once on loopback. With --proxy-from the rules are asked for
the client that the header names; without the header, which C tcpserver does not know, for haproxy's address. Medians of
the rounds; the CPU is that of tcpserver's process tree.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from bench_smtp import QUICK, SCRIPT, SMTPD, WHERE
from bench_tcpserver import OURS, rules
from figures import Figure, Row, arguments, installed, pair, show
from load import Server, settled, try_out, visit

from tests.kit.support import free_port

HAPROXY = "/usr/sbin/haproxy"
CONFIGURATION = """\
global
    maxconn 1000
defaults
    mode tcp
    timeout connect 20s
    timeout client 60s
    timeout server 60s
"""
LISTEN = """\
listen {port}
    bind 127.0.0.1:{port}
    server qmail 127.0.0.1:{server} {words}
"""
WAYS = {  # options of tcpserver, words of haproxy
    "without": ([], ""),
    "version 1": (["--proxy-from", "127.0.0.1"], "send-proxy"),
    "version 2, CRC32C": (["--proxy-from", "127.0.0.1"], "send-proxy-v2 proxy-v2-options crc32c"),
}
RULES = '127.0.0.1:allow,RELAYCLIENT=""\n127.0.0.2:deny\n:allow\n'
AT_ONCE = 20


class Proxy:
    """haproxy in front of the servers, with a port for each."""

    def __init__(self, folder: str, servers: dict[str, int]) -> None:
        self.ports = {name: free_port() for name in servers}
        text = CONFIGURATION
        for name, server in servers.items():
            text += LISTEN.format(port=self.ports[name], server=server, words=WAYS[name][1])
        Path(f"{folder}/haproxy.cfg").write_text(text)
        self.process = subprocess.Popen([HAPROXY, "-f", f"{folder}/haproxy.cfg"], stderr=subprocess.DEVNULL)
        time.sleep(0.5)  # its start-up is not to be measured

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def measure(folder: str, rounds: int, connections: int) -> dict[str, Figure]:
    """Run all servers at once, and use them in turns."""
    cdb = rules(folder, RULES, "rules")
    servers = {name: Server([OURS, *QUICK, *words, "-x", cdb, *WHERE, SMTPD]) for name, (words, _) in WAYS.items()}
    proxy = Proxy(folder, {name: server.port for name, server in servers.items()})
    rates: dict[str, list[float]] = {name: [] for name in servers}
    costs: dict[str, list[float]] = {name: [] for name in servers}
    for name in servers:
        try_out(proxy.ports[name], SCRIPT)
    for _ in range(rounds):
        for name, server in servers.items():
            before = settled(server.pid)
            rates[name].append(connections / visit(proxy.ports[name], connections, AT_ONCE, SCRIPT))
            costs[name].append((settled(server.pid) - before) / connections * 1000)
    proxy.stop()
    for server in servers.values():
        server.stop()
    return {name: Figure(median(rates[name]), median(costs[name])) for name in servers}


def rows(rounds: int, connections: int) -> list[Row]:
    peer = installed("haproxy", HAPROXY, "haproxy")
    without = peer._replace(name=f"{peer.name}, without the header")
    figures: dict[str, Figure] = {}
    if not peer.missing:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "control").mkdir()
            Path(folder, "control/me").write_text("mx.example.com\n")
            Path(folder, "control/rcpthosts").write_text("example.com\n")
            os.environ.update(QMAILHOME=folder, SMTPD_LOG="none")
            figures = measure(folder, rounds, connections)
    names = [name for name in WAYS if name != "without"]
    found = []
    for name in names:
        found += pair(f"proxy: PROXY header, {name}", figures.get(name), figures.get("without"), without, ">= 0.9 x")
    return found


def main() -> None:
    rounds, connections = arguments(5, 10_000)
    show(rows(rounds, connections), f"medians of {rounds} rounds, {connections} connections each, {AT_ONCE} at once")


if __name__ == "__main__":
    main()
