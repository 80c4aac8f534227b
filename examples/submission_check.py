"""Test logins and mail on the servers of examples/submission: submission_check.py PORT25 PORT587 PORT465 HOME PASSWORD.

Uses smtplib, and swaks if it is installed. Exit code 0 if all answers are as expected, else 1.
"""

import shutil
import smtplib
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from check import is_stored
from scramp import ScramClient

ADDRESS, CLIENT_NAME, SENDER = "127.0.0.1", "client.example", "joe@example.com"
TIMEOUT = 30  # seconds for each answer
INSIDE, OUTSIDE = "someone@example.com", "someone@elsewhere.example"
JOE, OLD = "joe@example.com", "old@example.com"  # passwords stored as SCRAM-SHA-256 and as PLAIN
ACCEPTED = "250 ok "
LOGIN_NEEDED = "530 Authorization required (#5.7.1)"
LOGIN_FAILED = "535 authentication failed (#5.7.1)"
TLS_NEEDED = "538 auth not available without TLS (#5.3.3)"
NOT_LISTED = "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
BEFORE_LOGIN = {25: NOT_LISTED, 587: LOGIN_NEEDED, 465: LOGIN_NEEDED}  # port -> answer to mail for OUTSIDE


class Login(NamedTuple):
    """A login attempt; `correct` says whether it uses the correct password."""

    mechanism: str
    user: str
    correct: bool = True


# port, TLS, login, recipient, beginning of the expected last answer
CASES = [
    # no login
    (25, False, None, INSIDE, ACCEPTED),
    (25, True, None, INSIDE, ACCEPTED),
    (25, True, None, OUTSIDE, NOT_LISTED),
    (587, True, None, OUTSIDE, LOGIN_NEEDED),
    (587, True, None, INSIDE, LOGIN_NEEDED),
    (465, True, None, INSIDE, LOGIN_NEEDED),
    # login: any recipient is accepted
    (25, True, Login("PLAIN", JOE), OUTSIDE, ACCEPTED),
    (25, True, Login("LOGIN", JOE), OUTSIDE, ACCEPTED),
    (25, True, Login("CRAM-MD5", OLD), OUTSIDE, ACCEPTED),
    (587, True, Login("PLAIN", JOE), OUTSIDE, ACCEPTED),
    (587, True, Login("LOGIN", OLD), OUTSIDE, ACCEPTED),
    (465, True, Login("PLAIN", OLD), OUTSIDE, ACCEPTED),
    (465, True, Login("LOGIN", JOE), OUTSIDE, ACCEPTED),
    (465, True, Login("SCRAM-SHA-256", JOE), OUTSIDE, ACCEPTED),
    (465, True, Login("SCRAM-SHA-256", OLD), OUTSIDE, ACCEPTED),
    # login fails, or TLS is missing: refused
    (25, True, Login("PLAIN", JOE, False), OUTSIDE, LOGIN_FAILED),
    (25, True, Login("CRAM-MD5", OLD, False), OUTSIDE, LOGIN_FAILED),
    (25, True, Login("CRAM-MD5", JOE), OUTSIDE, LOGIN_FAILED),  # CRAM-MD5 cannot be checked against a hash
    (587, True, Login("LOGIN", JOE, False), OUTSIDE, LOGIN_FAILED),
    (587, True, Login("PLAIN", "nobody@example.com"), OUTSIDE, LOGIN_FAILED),
    (465, True, Login("SCRAM-SHA-256", JOE, False), OUTSIDE, LOGIN_FAILED),
    (587, False, Login("PLAIN", JOE), OUTSIDE, TLS_NEEDED),
    (25, False, Login("LOGIN", JOE), OUTSIDE, TLS_NEEDED),
]


class Clients:
    """The two clients. Each method sends one message and returns the relevant answers in order."""

    def __init__(self, ports: dict[int, int], home: Path, password: str) -> None:
        self.ports = ports
        self.password = password
        self.context = ssl.create_default_context(cafile=home / "control/servercert.pem")

    def password_for(self, login: Login) -> str:
        return self.password if login.correct else "wrong"

    def by_smtplib(self, port: int, tls: bool, login: Login | None, recipient: str, subject: str) -> list[str]:
        """Send by smtplib. With a login, also send before the login, and return both answers."""
        if port == 465:
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(
                ADDRESS, self.ports[port], CLIENT_NAME, timeout=TIMEOUT, context=self.context
            )
        else:
            smtp = smtplib.SMTP(ADDRESS, self.ports[port], CLIENT_NAME, TIMEOUT)
        with smtp:
            if tls and port != 465:
                smtp.starttls(context=self.context)
            smtp.ehlo()
            if login is None:
                return [send(smtp, recipient, subject)]
            before = send(smtp, recipient, subject)
            smtp.rset()
            try:
                self.log_in(smtp, login)
            except smtplib.SMTPAuthenticationError as error:
                return [before, f"{error.smtp_code} {decode(error.smtp_error)}"]
            return [before, send(smtp, recipient, subject)]

    def log_in(self, smtp: smtplib.SMTP, login: Login) -> None:
        """Log in. Raises SMTPAuthenticationError."""
        smtp.user, smtp.password = login.user, self.password_for(login)
        authenticators: dict[str, Callable[[bytes | None], str | None]] = {
            "PLAIN": smtp.auth_plain,
            "LOGIN": smtp.auth_login,
            "CRAM-MD5": smtp.auth_cram_md5,
            "SCRAM-SHA-256": Scram(login.user, self.password_for(login)),
        }
        smtp.auth(login.mechanism, authenticators[login.mechanism])

    def by_swaks(self, port: int, tls: bool, login: Login | None, recipient: str, subject: str) -> list[str]:
        """Send by swaks. Return the first refusal, or the answer to the message."""
        command = ["swaks", "--server", f"{ADDRESS}:{self.ports[port]}", "--helo", CLIENT_NAME, "--from", SENDER]
        command += ["--to", recipient, "--header", f"Subject: {subject}", "--timeout", str(TIMEOUT)]
        if tls:
            command += ["--tls-on-connect" if port == 465 else "--tls"]
        if login:
            command += ["--auth", login.mechanism, "--auth-user", login.user]
            command += ["--auth-password", self.password_for(login)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        # Each line of the server begins with <-, <~, <** or <~*. A star marks a refusal.
        answers = [line.rstrip() for line in result.stdout.splitlines() if line.startswith("<")]
        refusals = [line[4:] for line in answers if "*" in line[:4]]
        accepted = [line[4:] for line in answers if line[4:].startswith(ACCEPTED)]
        return [*refusals, *accepted][:1] or [result.stderr or "no answer"]


class Scram:
    """The client side of SCRAM-SHA-256, called by smtplib's SMTP.auth with each challenge."""

    def __init__(self, user: str, password: str) -> None:
        self.client = ScramClient(["SCRAM-SHA-256"], user, password)
        self.answered = False

    def __call__(self, challenge: bytes | None = None) -> str:
        if challenge is None:
            first: str = self.client.get_client_first()
            return first
        if self.answered:
            self.client.set_server_final(challenge.decode())  # also checks the server's proof
            return ""
        self.answered = True
        self.client.set_server_first(challenge.decode())
        final: str = self.client.get_client_final()
        return final


def send(smtp: smtplib.SMTP, recipient: str, subject: str) -> str:
    """Send a message. Return the answer to the first refused command, or else to the message."""
    answer = smtp.mail(SENDER)
    if answer[0] == 250:
        answer = smtp.rcpt(recipient)
    if answer[0] == 250:
        answer = smtp.data(f"From: {SENDER}\r\nTo: {recipient}\r\nSubject: {subject}\r\n\r\nHello.\r\n")
    return f"{answer[0]} {decode(answer[1])}"


def decode(answer: bytes) -> str:
    return answer.decode("ascii", "replace")


def main(ports: dict[int, int], home: Path, password: str) -> int:
    """Run all cases and print the result of each. Return the exit code."""
    clients = Clients(ports, home, password)
    senders = {"smtplib": clients.by_smtplib}
    if reason := swaks_is_unusable():
        print(f"submission: {reason}: its half of the check is skipped")
    else:
        senders["swaks"] = clients.by_swaks
    status = 0
    for program, send_by in senders.items():
        for number, (port, tls, login, recipient, expected) in enumerate(CASES):
            if program == "swaks" and login and (not tls or login.mechanism.startswith("SCRAM")):
                continue  # swaks tries only mechanisms that are offered, and has no SCRAM
            subject = f"{program} {number}"
            try:
                answers = send_by(port, tls, login, recipient, subject)
            except (OSError, smtplib.SMTPException) as error:
                answers = [f"no answer: {error}"]
            all_expected = [BEFORE_LOGIN[port], expected] if login and program == "smtplib" else [expected]
            stored = is_stored(home / "Maildir", recipient, subject)
            passed = len(answers) == len(all_expected) and all(map(str.startswith, answers, all_expected))
            passed = passed and stored == (expected == ACCEPTED)
            status |= not passed
            case = describe(program, port, tls, login)
            print(f"submission: {'ok' if passed else 'NOT OK'}: {case} to {recipient}:", end=" ")
            print(f"{', then '.join(answers)}, {'stored' if stored else 'not stored'}", flush=True)
    return status


def swaks_is_unusable() -> str:
    """Return why swaks cannot be used, or an empty string. It needs another package for TLS."""
    if not shutil.which("swaks"):
        return "swaks is not installed"
    support = subprocess.run(["swaks", "--support"], capture_output=True, text=True, check=False).stdout
    return "" if "TLS supported" in support else "swaks has no TLS (on Debian: apt-get install libnet-ssleay-perl)"


def describe(program: str, port: int, tls: bool, login: Login | None) -> str:
    """Return the text that names a case in the output."""
    where = f"{program}, port {port}{'' if tls else ' without TLS'}"
    if login is None:
        return f"{where}, no login"
    return f"{where}, {login.mechanism} as {login.user}{'' if login.correct else ', wrong password'}"


if __name__ == "__main__":
    ports_by_service = dict(zip((25, 587, 465), map(int, sys.argv[1:4]), strict=True))
    sys.exit(main(ports_by_service, Path(sys.argv[4]), sys.argv[5]))
