"""Restart port 25 under runit, daemontools and systemd on Debian machines, while a client is idle.

Usage: python -m tests.machines.try_restarts [ --folder DIR ] [ SUITE ]...

Prints for each restart how long a new client waited, and whether the session of the idle client continues. Exit code 0
if each new client was served within ten seconds, and sessions continue where docs/supervisors.md says so, else 1.
"""

import argparse
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from tests.machines.machine import Failed, Machine
from tests.machines.pages import ROOT, commands
from tests.machines.try_pages import CHECKOUT, NOT_COPIED

LONGEST = 10.0  # seconds until a new client must be served
ALL = "sv stop qmail-smtpd; pkill -u qmaild; systemctl restart runit"

# restart.py COMMAND: print the seconds until a new client is served, and what the idle client gets.
RESTART = """
import socket, subprocess, sys, time

def greeted():
    client = socket.create_connection(("127.0.0.1", 25), 90)
    client.settimeout(90)
    assert client.recv(100).startswith(b"220 ")
    return client

for _ in range(300):
    try:
        idle = greeted()
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
time.sleep(1.5)  # runit and daemontools wait a second between two starts
began = time.monotonic()
done = subprocess.run(sys.argv[1], shell=True, capture_output=True, text=True)
while True:
    try:
        greeted()
        break
    except (ConnectionRefusedError, AssertionError):
        time.sleep(0.01)
print(f"exit code {done.returncode}, new client served after {time.monotonic() - began:.1f} s,", end=" ")
try:
    idle.sendall(b"NOOP\\r\\n")
    print("idle session", "continues" if idle.recv(100) == b"250 ok\\r\\n" else "has ended")
except OSError:
    print("idle session has ended")
"""
SETUP = """
    for name in qmaild qmaill; do useradd --system --user-group --no-create-home --shell /usr/sbin/nologin $name; done
    mkdir -p /var/qmail/control
    echo mail.example.org >/var/qmail/control/me
    echo example.org >/var/qmail/control/rcpthosts
    printf ':allow\\n' | tcprules /etc/tcp.smtp.cdb /etc/tcp.smtp.tmp
"""
SERVICE = "mkdir -p /etc/sv; cp -rT examples/runit /etc/sv/qmail-smtpd; ln -sf /etc/sv/qmail-smtpd /etc/service"

# supervisor -> packages, the commands that prepare it, and the restarts, with whether sessions continue
SUPERVISORS: dict[str, tuple[str, list[str], list[tuple[str, bool]]]] = {
    "runit": ("runit-run", [SERVICE], [("sv restart qmail-smtpd", True), (ALL, False)]),
    "daemontools": (
        "daemontools-run",
        [SERVICE],
        [("svc -t /etc/service/qmail-smtpd", True), ("systemctl restart daemontools-run", False)],
    ),
    "systemd": (
        "",
        [next(block for block in commands("supervisors") if "examples/systemd" in block)],
        [("systemctl restart qmail-smtpd", True), ("systemctl stop qmail-smtpd", True)],
    ),
}


def attempt(suite: str, folder: Path, supervisor: str) -> int:
    """Restart under one supervisor on a new machine. Return the number of failures."""
    packages, preparation, restarts = SUPERVISORS[supervisor]
    failed = 0
    with Machine(suite, folder) as machine:
        shutil.copytree(ROOT, machine.root / CHECKOUT[1:], ignore=NOT_COPIED)
        (machine.root / "root/restart.py").write_text(RESTART)
        install = f"apt-get update; apt-get install python3-venv {packages}; examples/install"
        machine.run(install, place="outside", directory=CHECKOUT)
        machine.run(SETUP)
        for command in preparation:
            machine.run(command, directory=CHECKOUT)
        for command, continues in restarts:
            line = machine.run(f"python3 /root/restart.py '{command}'", check=False).stdout.strip()
            waited = re.search(r"after ([\d.]+) s", line)
            passed = waited is not None and float(waited[1]) < LONGEST
            passed = (
                passed and line.startswith("exit code 0") and line.endswith("continues" if continues else "has ended")
            )
            failed += not passed
            print(f"{suite} {supervisor}: {'ok' if passed else 'NOT OK'}: {command}: {line}", flush=True)
    return failed


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("suite", nargs="*")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="machines-", dir="/var/tmp") as temporary:
        folder = options.folder or Path(temporary)
        suites = options.suite or ["bookworm", "trixie"]
        failures = 0
        for suite in suites:
            for supervisor in SUPERVISORS:
                if suite == "forky" and supervisor == "runit":
                    continue  # see docs/supervisors.md
                try:
                    failures += attempt(suite, folder, supervisor)
                except Failed as error:
                    print(f"{suite} {supervisor}: NOT OK: {error}", flush=True)
                    failures += 1
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
