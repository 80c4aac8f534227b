"""Run the commands of the pages in docs/ as they are written, on new Debian machines.

Usage: python -m tests.machines.try_pages [ --folder DIR ] [ --page PAGE[,PAGE] ]... [ SUITE ]...

A SUITE is bookworm, trixie or forky; the default is bookworm and trixie. The pages of one --page run on the same
machine. DIR keeps the root file systems that debootstrap has made. Needs root, debootstrap, and the package servers of
Debian and PyPI. Exit code 0 if everything is as the pages say, else 1.
"""

import argparse
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.machines.machine import CLIENT, Failed, Machine, until
from tests.machines.pages import ROOT, commands

CHECKOUT = "/root/ucspi-smtpd"
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
PASSWORD = "secret"
SCENARIOS = (
    "roaming-address",
    "roaming-auth",
    "roaming-pop",
    "roaming-dovecot",
    "roaming-vpopmail",
    "roaming-auth,roaming-pop",
    "roaming",
    "README",
)
ACCEPTED, LOGIN_NEEDED, REFUSED = (
    r"<[-~] +250 ok \d+ qp \d+",
    r"<~\* 530 Authorization required",
    r"<\*\* 553 sorry, that domain",
)

# What the commands on the other host answer, in the order of the page.
ANSWERS = {
    "roaming-address": [ACCEPTED, REFUSED],
    "roaming-auth": [ACCEPTED, LOGIN_NEEDED, REFUSED],
    "roaming-pop": [REFUSED, r"", ACCEPTED],
    "roaming-dovecot": [REFUSED, r"\* LIST .* INBOX", ACCEPTED],
    "roaming-vpopmail": [REFUSED],
}
PORTS = {
    "roaming-address": [25],
    "roaming-auth": [25, 587, 465],
    "roaming-pop": [25, 110, 995],
    "roaming-dovecot": [25, 143, 993],
    "roaming-vpopmail": [25],
}

# What must exist before the commands of a page.
QMAIL_AND_VPOPMAIL = """
    for name in qmaild qmaill; do useradd --system --user-group --shell /usr/sbin/nologin $name; done
    mkdir -p /var/qmail/control /var/qmail/bin /home/vpopmail/etc /home/vpopmail/bin
    echo mail.example.org >/var/qmail/control/me
    echo example.org >/var/qmail/control/rcpthosts
    printf '#!/bin/sh\\ncat >/dev/null; cat <&1 >/dev/null\\n' >/var/qmail/bin/qmail-queue
    chmod 755 /var/qmail/bin/qmail-queue
    printf '127.0.0.1:allow,RELAYCLIENT=""\\n:allow\\n' >/home/vpopmail/etc/tcp.smtp
    touch /home/vpopmail/etc/open-smtp
"""
BEFORE = {
    "README": "apt-get install postfix python3-venv; postconf -MX smtp/inet; systemctl restart postfix",
    "roaming-dovecot": f"useradd --create-home joe; echo joe:{PASSWORD} | chpasswd",
    "roaming-vpopmail": QMAIL_AND_VPOPMAIL,
}
SEND = "swaks --server mail.example.org --from me@home.example --to joe@example.org --header 'Subject: fetch me'"
FETCH = f"curl -sk -u joe@example.org:{PASSWORD} pop3s://mail.example.org/1"


class Check(NamedTuple):
    """A further command, and what its output must match."""

    command: str
    place: str
    expected: str


# What must be true after the page.
AFTER = {
    "README": [
        Check(SEND, "client", ACCEPTED),
        Check(SEND.replace("joe@example.org", "you@elsewhere.example"), "client", REFUSED),
    ],
    "roaming-address": [Check("cat /var/log/qmail-smtpd/current", "machine", f"tcpserver: ok .*:{CLIENT}:")],
    "roaming-auth": [
        Check("postqueue -p", "machine", "you@elsewhere.example"),
        Check(
            "cat /var/log/submission/current",
            "machine",
            f"event=login .* ip={CLIENT} .* result=yes mechanism=PLAIN user=joe@example.org",
        ),
    ],
    "roaming-pop": [
        Check(SEND, "client", ACCEPTED),
        Check(f"for try in 1 2 3 4 5; do sleep 2; {FETCH} && break; done", "client", "Subject: fetch me"),
    ],
    "roaming-vpopmail": [
        Check(
            f'printf \'{CLIENT}:allow,RELAYCLIENT="",RBLSMTPD=""\\t%s\\n\' $(date +%s) >>/home/vpopmail/etc/open-smtp',
            "machine",
            "",
        ),
        Check(SEND.replace("joe@example.org", "you@elsewhere.example"), "client", ACCEPTED),
    ],
}
LOG_IN = f"--auth PLAIN --auth-user joe@example.org --auth-password {PASSWORD}"
LOG_IN += " --from joe@example.org --to you@elsewhere.example"
ALSO_AUTH = """
    sed -i 's/^exec 2>&1$/&\\nexport SMTPAUTH=/; s/ relay-check qmail-smtpd$/& checkusers true/' /etc/sv/smtp/run
    sv restart smtp || svc -t /etc/service/smtp
    sleep 3
"""
BOTH = {  # after a second page the first method still works; on port 25 after the change that roaming.md describes
    "roaming-auth": [
        Check(f"swaks --server mail.example.org:587 --tls {LOG_IN}", "client", ACCEPTED),
        Check(ALSO_AUTH, "machine", ""),
        Check(f"swaks --server mail.example.org:25 --tls {LOG_IN}", "client", ACCEPTED),
    ]
}


class Attempt:
    """One machine with its pages. `failed` counts what was not as the pages say."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.name = name
        self.failed = 0

    def report(self, passed: bool, what: str, output: str = "", seconds: float = 0) -> None:
        """Print one line, and the output of what went wrong."""
        self.failed += not passed
        first = what.strip().split("\n")[0][:100]
        print(f"{self.name}: {'ok' if passed else 'NOT OK'}: {first} ({seconds:.0f} s)", flush=True)
        if not passed:
            print("".join(f"    | {line}\n" for line in output.split("\n")), flush=True)

    def do(self, command: str, place: str = "machine", expected: str = "", check: bool = True) -> str:
        """Run a command. With `check` it must exit with 0, and in any case its output must match."""
        began = time.monotonic()
        try:
            done = self.machine.run(command, f"{PASSWORD}\n", place, CHECKOUT, check)
        except Failed as error:
            self.report(False, command, str(error), time.monotonic() - began)
            return ""
        passed = re.search(expected, done.stdout) is not None
        self.report(passed, command, f"expected {expected!r}\n{done.stdout}", time.monotonic() - began)
        return done.stdout

    def page(self, page: str, restart: bool = False) -> None:
        """Run the commands of a page. `restart`: an earlier page has started a service on port 25."""
        answers = iter(ANSWERS.get(page, []))
        for block in commands(page):
            if self.machine.suite == "forky":
                block = block.replace("runit-run", "daemontools-run")  # as the pages say
            if re.match(r"(swaks|curl) ", block):
                for line in filter(None, block.splitlines()):
                    self.do(line, "client", next(answers), check=False)
            elif "install --check" in block:
                if restart:
                    self.do("sv restart smtp || svc -t /etc/service/smtp")
                self.wait_for_services(page)
                self.do(block)
            elif re.search(r"apt-get|examples/(install$|\w+ --check)", block, re.MULTILINE):
                self.do(block, "outside")
            elif block.splitlines()[-1].startswith("tcpserver "):
                self.do(f"{block.rstrip()} >/root/log 2>&1 & sleep 3")  # it serves until it is stopped
            else:
                self.do(block)
        for check in AFTER.get(page, []):
            self.do(check.command, check.place, check.expected, check=check.place == "machine")

    def wait_for_services(self, page: str) -> None:
        """Wait until the ports of the page's services accept connections."""
        for port in PORTS[page]:
            script = f"python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}), 5)'"
            try:
                until(lambda script=script: self.machine.run(script, check=False).returncode == 0, 30)
            except Failed:
                self.report(
                    False, f"port {port} is open", self.machine.run("ps -ef; ls -l /etc/service/", check=False).stdout
                )


def attempt(suite: str, folder: Path, scenario: str) -> int:
    """Run the pages of the scenario on a new machine of the suite. Return the number of failures."""
    with Machine(suite, folder) as machine:
        shutil.copytree(ROOT, machine.root / CHECKOUT[1:], ignore=NOT_COPIED)
        one = Attempt(machine, f"{suite} {scenario}")
        one.do("apt-get update && apt-get install curl libnet-ssleay-perl swaks", "outside")
        pages = scenario.split(",")
        for number, page in enumerate(pages):
            if page in BEFORE:
                one.do(BEFORE[page], "outside" if "apt-get" in BEFORE[page] else "machine")
            one.page(page, restart=number > 0)
        for page in pages[:-1]:
            for check in BOTH[page]:
                one.do(check.command, check.place, check.expected)
        return one.failed


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--page", action="append")
    parser.add_argument("suite", nargs="*")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="machines-", dir="/var/tmp") as temporary:
        folder = options.folder or Path(temporary)
        failures = [
            attempt(suite, folder, scenario)
            for suite in options.suite or ["bookworm", "trixie"]
            for scenario in options.page or SCENARIOS
        ]
    print(f"{len(failures)} machines, {sum(failures)} failures")
    return int(any(failures))


if __name__ == "__main__":
    sys.exit(main())
