"""A round through the servers of examples/roaming: SMTPPORT POP3PORT HOME USER PASSWORD SECONDS.

Exit code 0 if every answer is right, else 1. SECONDS is how long a login opens relaying.
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

HERE, ROAMER, NEIGHBOUR, DENIED = "127.0.0.1", "127.0.0.5", "127.0.0.6", "127.0.0.7"
INSIDE, OUTSIDE = "someone@example.com", "someone@elsewhere.example"
TAKEN = "250 ok "
REFUSED = "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
TOO_BIG = "552 sorry, that message size exceeds my databytes limit (#5.3.4)"
NO_SESSION = "no answer: Connection unexpectedly closed"
WELCOME, WRONG = "+OK 1 messages", "-ERR authorization failed"
LARGE = 3000  # bytes: more than the rule for the roamer's network lets pass
PROGRAMS = Path(sys.executable).parent


class Round:
    """The steps: each is printed, and counts against the whole if its answer is not the one that is wanted."""

    def __init__(self, smtp: int, pop3: int, home: Path, user: str, password: str, seconds: int) -> None:
        self.smtp, self.pop3, self.home = smtp, pop3, home
        self.user, self.password, self.seconds = user, password, seconds
        self.steps = self.wrong = 0

    def expect(self, what: str, wanted: str, answer: str) -> None:
        self.steps += 1
        right = answer.startswith(wanted)
        self.wrong += not right
        print(f"roaming: {'ok' if right else 'NOT OK'}: {what}: {answer}", flush=True)

    def mail(self, client: str, wanted: str, recipient: str = OUTSIDE) -> None:
        """A message from this address: its answer, and whether it is stored, must be right."""
        subject = f"roaming {self.steps}"
        answer = attempt(lambda: "{} {}".format(*send(self.smtp, client, recipient, subject)))
        stored = is_stored(self.home / "Maildir", recipient, subject)
        text = f"{answer}, {'stored' if stored else 'not stored'}"
        self.expect(f"{client} to {recipient}", wanted, text if stored == (wanted == TAKEN) else f"wrongly {text}")

    def large_mail(self, client: str, wanted: str) -> None:
        self.expect(f"{client}, a message of {LARGE} bytes", wanted, attempt(lambda: large(self.smtp, client)))

    def login(self, client: str, wanted: str, password: str | None = None) -> None:
        """Fetch mail from this address."""
        answer = attempt(lambda: fetch(self.pop3, client, self.user, password or self.password))
        self.expect(f"{client} logs in{' with a wrong password' if password else ''}", wanted, answer)

    def wait_for_the_end(self, client: str, since: float) -> None:
        """Try until relaying is closed, which must not be before the window ends. Nobody runs clearopensmtp."""
        answer = TAKEN
        while answer.startswith(TAKEN) and time.time() < since + self.seconds + TIMEOUT:
            time.sleep(0.2)
            answer = attempt(lambda: "{} {}".format(*send(self.smtp, client, OUTSIDE, "still open?")))
        after = time.time() - since
        early = after < self.seconds - 1  # times are whole seconds
        self.expect(f"{client} to {OUTSIDE}, {after:.1f} s later", REFUSED, f"too early {answer}" if early else answer)

    def listed(self) -> str:
        """What relay-list shows."""
        command = [PROGRAMS / "relay-list"]
        done = subprocess.run(command, env={"QMAILHOME": str(self.home)}, capture_output=True, text=True, check=False)
        return "; ".join(line for line in (done.stdout + done.stderr).splitlines()[1:])

    def go(self) -> int:
        """All steps, in their order."""
        rules = digest(self.home)
        self.mail(ROAMER, REFUSED)
        self.mail(ROAMER, TAKEN, INSIDE)
        self.login(ROAMER, WRONG, "wrong")
        self.mail(ROAMER, REFUSED)
        self.login(ROAMER, WELCOME)
        self.mail(ROAMER, TAKEN)
        self.large_mail(ROAMER, TOO_BIG)
        self.mail(NEIGHBOUR, REFUSED)
        self.login(DENIED, WELCOME)
        self.mail(DENIED, NO_SESSION)
        self.mail(HERE, TAKEN)
        self.login(ROAMER, WELCOME)
        since = time.time()
        self.expect("relay-list", ROAMER, first_of(self.listed(), ROAMER))
        self.wait_for_the_end(ROAMER, since)
        self.mail(HERE, TAKEN)
        self.mail(NEIGHBOUR, REFUSED)
        self.expect("tcp.smtp.cdb is as it was", rules, digest(self.home))
        return int(self.wrong > 0)


def attempt(call: Callable[[], str]) -> str:
    """The answer, or why there is none."""
    try:
        return call()
    except (OSError, smtplib.SMTPException) as error:
        return f"no answer: {error}"


def large(port: int, client: str) -> str:
    """The answer to a message that is larger than the client's rule lets pass."""
    with smtplib.SMTP(HERE, port, "client.example", TIMEOUT, source_address=(client, 0)) as smtp:
        smtp.helo()
        smtp.mail(SENDER)
        smtp.rcpt(OUTSIDE)
        code, text = smtp.data("Subject: large\r\n\r\n" + "x" * 70 + "\r\n" + ("y" * 70 + "\r\n") * (LARGE // 72))
    return f"{code} {text.decode('ascii', 'replace')}"


def first_of(lines: str, address: str) -> str:
    """The line of this address, or all of them if there is none."""
    return next((line for line in lines.split("; ") if line.startswith(address)), lines)


def digest(home: Path) -> str:
    """The compiled rules, in short."""
    return hashlib.sha256((home / "tcp.smtp.cdb").read_bytes()).hexdigest()[:16]


if __name__ == "__main__":
    smtp_port, pop3_port, home, user, password, seconds = sys.argv[1:]
    sys.exit(Round(int(smtp_port), int(pop3_port), Path(home), user, password, int(seconds)).go())
