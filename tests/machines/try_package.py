"""Build the Debian packages, install them beside ucspi-tcp, and run their systemd units, on new Debian machines.

Usage: python -m tests.machines.try_package [ --folder DIR ] [ --verbose ] [ SUITE ]...

A SUITE is trixie, the default, or later. DIR keeps the root file systems that debootstrap has made. Prints a line for
each step. Exit code 0 if all is as docs/packages.md says, else 1. Needs root, debootstrap, and the package servers of
Debian and PyPI.
"""

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

from tests.machines.machine import Failed, Machine
from tests.machines.pages import ROOT
from tests.machines.try_pages import CHECKOUT, NOT_COPIED

UCSPI_SMTPD, UCSPI_TCP = "/usr/lib/ucspi-smtpd/bin/tcpserver", "/usr/bin/tcpserver"
BUILD = """
    apt-get update
    apt-get install --no-install-recommends build-essential python3-pip lintian man-db
    apt-get build-dep --no-install-recommends ./
    DEBFULLNAME="A Builder" DEBEMAIL=postmaster@debian.org debian/make /root/out
    cd /root/out && lintian *.changes
"""
CONTROL = """
    echo mail.example.org >/var/qmail/control/me
    echo example.org >/var/qmail/control/rcpthosts
    printf '127.0.0.1:allow,RELAYCLIENT=""\\n:allow\\n' >/etc/tcp.smtp
    tcprules /etc/tcp.smtp.cdb /etc/tcp.smtp.tmp </etc/tcp.smtp
    useradd -m joe
    postconf -MX smtp/inet
    postconf -e mydestination=example.org home_mailbox=Maildir/ smtputf8_enable=no
    systemctl restart postfix
    systemctl start qmail-smtpd.socket qmail-pop3d.socket
"""
EXAMPLE = "/usr/share/doc/ucspi-smtpd/examples/systemd/setgid-queue.conf"
FOLDER = "/etc/systemd/system/qmail-smtpd.service.d"
WHOLE = f"cp {EXAMPLE} {FOLDER}"
QUEUE_ONLY = (
    f"mkdir -p {FOLDER}; grep -e '^.Service' -e ^Environment -e ^ReadWrite {EXAMPLE} >{FOLDER}/setgid-queue.conf"
)
DROP_IN = """
    systemctl daemon-reload
    systemctl stop qmail-smtpd.service
    systemctl restart qmail-smtpd.socket
"""
SEND = """
import smtplib
with smtplib.SMTP("127.0.0.1", 25, timeout=20) as smtp:
    smtp.ehlo()
    smtp.mail("someone@example.net")
    smtp.rcpt("joe@example.org")
    print(*smtp.data(b"Subject: t\\r\\n\\r\\nhello\\r\\n"))
"""
POP = """
import poplib
pop = poplib.POP3("127.0.0.1", 110, timeout=20)
print(pop.getwelcome().decode(), pop.user("joe"), pop.pass_("secret"), pop.stat())
pop.quit()
"""
USERS = """
    install -d -o pop -g pop -m 711 /var/mail/joe
    for part in '' /new /cur /tmp; do install -d -o pop -g pop -m 700 /var/mail/joe/Maildir$part; done
    echo hello >/var/mail/joe/Maildir/new/1; chown pop /var/mail/joe/Maildir/new/1
    touch -d '1 minute ago' /var/mail/joe/Maildir/new/1
    echo secret | checkusers --set joe
    sed -i 's|^joe:.*|&::::/var/mail/joe|' /var/qmail/control/users
    chgrp mailauth /var/qmail/control/users
"""
# step, script, place, what its output must match
STEPS = (
    ("the packages are built, and lintian has no errors", BUILD, "outside", r"\A(?!(?s:.*)^E: )"),
    ("ucspi-tcp and ours are installed", "apt-get install ucspi-tcp /root/out/*.deb", "outside", ""),
    (
        "ucspi-tcp's stay in /usr/bin",
        f"realpath {UCSPI_TCP}; dpkg -S {UCSPI_TCP}",
        "machine",
        f"\\A{UCSPI_TCP}\nucspi-tcp: ",
    ),
    ("ours are in /usr/lib", f"{UCSPI_SMTPD} 2>&1 || true", "machine", r"--proxy-from|usage: tcpserver"),
    (
        "without ucspi-tcp, ours are in /usr/bin",
        f"apt-get remove ucspi-tcp; realpath {UCSPI_TCP}",
        "machine",
        f"\n{UCSPI_SMTPD}\\Z",
    ),
    (
        "the manual page, too",
        "man -w tcpserver; man tcpserver 2>/dev/null | head -1",
        "machine",
        r"tcpserver.*\nTCPSERVER\(1\)",
    ),
    ("ucspi-tcp comes back", f"apt-get install ucspi-tcp; realpath {UCSPI_TCP}", "outside", f"\n{UCSPI_TCP}\\Z"),
    (
        "without ours, ucspi-tcp is whole, and no alternative is left",
        "apt-get purge ucspi-smtpd; dpkg -V ucspi-tcp; ls /etc/alternatives | grep -c 'tcpserver\\|qmail-' || true",
        "machine",
        r"\n0\Z",
    ),
    (
        "ours alone, with Postfix",
        "apt-get purge ucspi-tcp; apt-get install postfix /root/out/*.deb; systemctl daemon-reload",
        "outside",
        "",
    ),
    ("the units start", CONTROL, "machine", ""),
    (
        "NoNewPrivileges keeps postdrop from queueing: it tries for ever",
        f"{QUEUE_ONLY}{DROP_IN}\npython3 -c '{SEND}' 2>&1 | tail -1; journalctl -o cat | grep -m 1 mail_queue_enter",
        "machine",
        r"timed out\n.*Permission denied",
    ),
    ("the drop-in lets it queue", f"{WHOLE}{DROP_IN}\npython3 -c '{SEND}'", "machine", r"^250 "),
    (
        "the message is delivered",
        "timeout 60 sh -c 'until grep -rq hello /home/joe/Maildir/new; do sleep 0.2; done'; echo there",
        "machine",
        "there",
    ),
    ("a user fetches mail by POP3", f"{USERS}\npython3 -c '{POP}'", "machine", r"^\+OK .*\(1, 7\)"),
    (
        "the server serves one client after the other in a process",
        "ps -o args= --ppid $(systemctl show -P MainPID qmail-smtpd); journalctl -u qmail-smtpd -o cat | tail -40",
        "machine",
        r"qmail-smtpd",
    ),
    ("systemd rates the running units", "systemd-analyze security qmail-pop3d | tail -1", "machine", r": [012]\.\d OK"),
    (
        "all is removed",
        "apt-get purge ucspi-smtpd python3-pure-cdb; ls /usr/lib/ucspi-smtpd 2>&1 || true",
        "machine",
        "No such",
    ),
)

NEEDED = {step for step, *_ in STEPS if "install" in step or "built" in step or "Postfix" in step}  # by later steps


def attempt(suite: str, folder: Path, verbose: bool) -> int:
    """Take all steps on a new machine. Return the number of failures."""
    failed = 0
    with Machine(suite, folder) as machine:
        shutil.copytree(ROOT, machine.root / CHECKOUT[1:], ignore=NOT_COPIED)
        for step, script, place, expected in STEPS:
            done = machine.run(script, place=place, directory=CHECKOUT, check=False)
            passed = done.returncode == 0 and re.search(expected, done.stdout.strip(), re.MULTILINE)
            failed += not passed
            print(f"{suite}: {'ok' if passed else 'NOT OK'}: {step}", flush=True)
            if verbose or not passed:
                print(done.returncode, done.stdout[-3000:], flush=True)
            if not passed and step in NEEDED:
                break
    return failed


def main() -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("suite", nargs="*")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="machines-", dir="/var/tmp"))
    try:
        failures = [attempt(suite, folder, options.verbose) for suite in options.suite or ["trixie"]]
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if any(failures) else 0


if __name__ == "__main__":
    sys.exit(main())
