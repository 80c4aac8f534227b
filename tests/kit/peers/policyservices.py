"""Policy services that are made for Postfix, from Debian's packages: postgrey, policyd-spf, policyd-rate-limit."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit.server import PATIENCE, Server, until, with_files
from tests.kit.support import ROOT, own_address, peer, script

SPF = """debugLevel = 0
TestOnly = 1
HELO_reject = False
Mail_From_reject = Fail
skip_addresses = 192.0.2.255/32
"""
RATE_LIMIT = """debug: False
user: root
group: root
pidfile: {directory}/pid
backend: 0
sqlite_config: {{database: "{directory}/db.sqlite3"}}
SOCKET: "{directory}/s"
socket_permission: 0666
limits: [[{limit}, 3600]]
sql_limits_by_id: ""
limit_by_sasl: True
success_action: "dunno"
fail_action: "defer_if_permit Rate limit reach, retry later"
db_error_action: "450 no database"
delay_to_close: 300
"""


@contextmanager
def running(words: list[str | Path], path: Path) -> Iterator[str]:
    """Run a service that listens at this path. Yield its line for control/policyservice."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until(lambda: process.poll() is not None or accepts(path), lambda: f"{words[0]} does not listen")
        assert process.poll() is None, process.stderr and process.stderr.read()
        yield f"unix:{path}"
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def accepts(path: Path) -> bool:
    """Whether a service listens at the path."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@contextmanager
def postgrey(directory: Path, delay: int) -> Iterator[str]:
    """Run postgrey, which defers what it has not seen before, for `delay` seconds."""
    (directory / "nobody").touch()
    names = [f"--whitelist-{kind}={directory}/nobody" for kind in ("clients", "recipients")]
    words = [peer("/usr/sbin/postgrey"), f"--unix={directory}/s", f"--dbdir={directory}", "--user=root", "--group=root"]
    with running([*words, f"--delay={delay}", "--auto-whitelist-clients=0", *names], directory / "s") as line:
        yield line


@contextmanager
def policyd_rate_limit(directory: Path, limit: int) -> Iterator[str]:
    """Run policyd-rate-limit: a logged-in user may send to `limit` recipients."""
    config = directory / "config.yaml"
    config.write_text(RATE_LIMIT.format(directory=directory, limit=limit))
    with running([peer("/usr/bin/policyd-rate-limit"), "-f", config], directory / "s") as line:
        yield line


@contextmanager
def policyd_spf(directory: Path, records: dict[str, str]) -> Iterator[str]:
    """Run policyd-spf in processes of tcpserver. `records`: the SPF record of each domain."""
    policyd = peer("/usr/bin/policyd-spf")
    address = own_address(0)
    table = {domain: ["TXT", record] for domain, record in records.items()}
    server = [sys.executable, str(ROOT / "tests/kit/peers/nameserver.py"), address, json.dumps(table)]
    (directory / "spf.conf").write_text(SPF)
    (directory / "resolv.conf").write_text(f"nameserver {address}\n")
    before = with_files({"/etc/resolv.conf": directory / "resolv.conf"})
    words = ["-RHl0", "-c", "60", "127.0.0.1", "0", policyd, str(directory / "spf.conf")]
    with subprocess.Popen(server, stdout=subprocess.PIPE) as names:
        try:
            assert names.stdout
            assert names.stdout.readline() == b"listening\n"
            with Server(words, program=script("tcpserver"), before=before) as service:
                yield f"inet:127.0.0.1:{service.port}"
        finally:
            names.kill()
