"""Test the servers of examples/roaming: roaming_check.py SMTPPORT POP3PORT HOME USER PASSWORD SECONDS.

SECONDS is how long relaying is allowed after a login. Exit code 0 if all answers are as expected, else 1.
"""

import hashlib
import smtplib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from check import is_stored
from fetch import fetch
from send import SENDER, TIMEOUT, send

SERVER, ROAMER, NEIGHBOUR, DENIED = "127.0.0.1", "127.0.0.5", "127.0.0.6", "127.0.0.7"
INSIDE, OUTSIDE = "someone@example.com", "someone@elsewhere.example"
ACCEPTED = "250 ok "
REFUSED = "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
TOO_BIG = "552 sorry, that message size exceeds my databytes limit (#5.3.4)"
NO_SESSION = "no answer: Connection unexpectedly closed"
LOGGED_IN, LOGIN_FAILED = "+OK 1 messages", "-ERR authorization failed"
LARGE = 3000  # bytes: more than DATABYTES in the roamer's rule
PROGRAMS = Path(sys.executable).parent


class Check:
    """The steps of the check. Each prints its result; the check fails if one answer is not as expected."""

    def __init__(self, smtp: int, pop3: int, home: Path, user: str, password: str, seconds: int) -> None:
        self.smtp, self.pop3, self.home = smtp, pop3, home
        self.user, self.password, self.seconds = user, password, seconds
        self.steps = self.failed = 0

    def expect(self, step: str, expected: str, answer: str) -> None:
        """Print the result of a step: it passes if the answer begins with the expected text."""
        self.steps += 1
        passed = answer.startswith(expected)
        self.failed += not passed
        print(f"roaming: {'ok' if passed else 'NOT OK'}: {step}: {answer}", flush=True)

    def mail(self, client: str, expected: str, recipient: str = OUTSIDE) -> None:
        """Send a message from this address. It must be stored if it is accepted, and only then."""
        subject = f"roaming {self.steps}"
        answer = attempt(lambda: "{} {}".format(*send(self.smtp, client, recipient, subject)))
        stored = is_stored(self.home / "Maildir", recipient, subject)
        text = f"{answer}, {'stored' if stored else 'not stored'}"
        as_expected = stored == (expected == ACCEPTED)
        self.expect(f"{client} to {recipient}", expected, text if as_expected else f"unexpected: {text}")

    def large_mail(self, client: str, expected: str) -> None:
        """Send a message of LARGE bytes from this address."""
        self.expect(f"{client}, a message of {LARGE} bytes", expected, attempt(lambda: send_large(self.smtp, client)))

    def login(self, client: str, expected: str, password: str | None = None) -> None:
        """Log in by POP3 from this address. `password`: a wrong one, None for the correct one."""
        answer = attempt(lambda: fetch(self.pop3, client, self.user, password or self.password))
        self.expect(f"{client} logs in{' with a wrong password' if password else ''}", expected, answer)

    def wait_for_expiry(self, client: str, since: float) -> None:
        """Send until relaying is refused, which must not be before the window ends. clearopensmtp does not run."""
        answer = ACCEPTED
        while answer.startswith(ACCEPTED) and time.time() < since + self.seconds + TIMEOUT:
            time.sleep(0.2)
            answer = attempt(lambda: "{} {}".format(*send(self.smtp, client, OUTSIDE, "still allowed?")))
        elapsed = time.time() - since
        too_early = elapsed < self.seconds - 1  # entries have times in whole seconds
        self.expect(
            f"{client} to {OUTSIDE}, {elapsed:.1f} s later", REFUSED, f"too early: {answer}" if too_early else answer
        )

    def listed(self) -> str:
        """Return the entries that relay-list prints, joined by semicolons."""
        command = [PROGRAMS / "relay-list"]
        result = subprocess.run(command, env={"QMAILHOME": str(self.home)}, capture_output=True, text=True, check=False)
        return "; ".join(line for line in (result.stdout + result.stderr).splitlines()[1:])

    def run(self) -> int:
        """Run all steps. Return the exit code."""
        rules = digest(self.home)
        self.mail(ROAMER, REFUSED)
        self.mail(ROAMER, ACCEPTED, INSIDE)
        self.login(ROAMER, LOGIN_FAILED, "wrong")
        self.mail(ROAMER, REFUSED)
        self.login(ROAMER, LOGGED_IN)
        self.mail(ROAMER, ACCEPTED)
        self.large_mail(ROAMER, TOO_BIG)
        self.mail(NEIGHBOUR, REFUSED)
        self.login(DENIED, LOGGED_IN)
        self.mail(DENIED, NO_SESSION)
        self.mail(SERVER, ACCEPTED)
        self.login(ROAMER, LOGGED_IN)
        since = time.time()
        self.expect("relay-list", ROAMER, entry_for(ROAMER, self.listed()))
        self.wait_for_expiry(ROAMER, since)
        self.mail(SERVER, ACCEPTED)
        self.mail(NEIGHBOUR, REFUSED)
        self.expect("tcp.smtp.cdb is unchanged", rules, digest(self.home))
        return int(self.failed > 0)


def attempt(call: Callable[[], str]) -> str:
    """Return the answer of the call, or `no answer: REASON`."""
    try:
        return call()
    except (OSError, smtplib.SMTPException) as error:
        return f"no answer: {error}"


def send_large(port: int, client: str) -> str:
    """Send a message that is larger than DATABYTES in the client's rule. Return the answer."""
    with smtplib.SMTP(SERVER, port, "client.example", TIMEOUT, source_address=(client, 0)) as smtp:
        smtp.helo()
        smtp.mail(SENDER)
        smtp.rcpt(OUTSIDE)
        code, text = smtp.data("Subject: large\r\n\r\n" + "x" * 70 + "\r\n" + ("y" * 70 + "\r\n") * (LARGE // 72))
    return f"{code} {text.decode('ascii', 'replace')}"


def entry_for(address: str, entries: str) -> str:
    """Return the entry of this address, or all entries if there is none."""
    return next((entry for entry in entries.split("; ") if entry.startswith(address)), entries)


def digest(home: Path) -> str:
    """Return a short digest of the compiled rules."""
    return hashlib.sha256((home / "tcp.smtp.cdb").read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    smtp_port, pop3_port, home, user, password, seconds = sys.argv[1:]
    sys.exit(Check(int(smtp_port), int(pop3_port), Path(home), user, password, int(seconds)).run())
