"""A round of logins and mail through the servers of examples/submission: PORT25 PORT587 PORT465 HOME PASSWORD.

By smtplib, and by swaks where it is installed. Exit code 0 if every answer is right, else 1.
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

ADDRESS, NAME, SENDER, TIMEOUT = "127.0.0.1", "client.example", "joe@example.com", 30
INSIDE, OUTSIDE = "someone@example.com", "someone@elsewhere.example"
JOE, OLD = "joe@example.com", "old@example.com"  # whose passwords are stored as SCRAM-SHA-256 and as PLAIN
TAKEN = "250 ok "
LOGIN_FIRST = "530 Authorization required (#5.7.1)"
NOT_YOU = "535 authentication failed (#5.7.1)"
TLS_FIRST = "538 auth not available without TLS (#5.3.3)"
NOT_LISTED = "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"
BEFORE = {25: NOT_LISTED, 587: LOGIN_FIRST, 465: LOGIN_FIRST}  # what mail for outside gets before a login


class Login(NamedTuple):
    """By which mechanism, who, and with the right password?"""

    mechanism: str
    user: str
    right: bool = True


# port, with TLS, login, recipient -> how the last answer begins
ROUND = [
    # without a login: what everybody may
    (25, False, None, INSIDE, TAKEN),
    (25, True, None, INSIDE, TAKEN),
    (25, True, None, OUTSIDE, NOT_LISTED),
    (587, True, None, OUTSIDE, LOGIN_FIRST),
    (587, True, None, INSIDE, LOGIN_FIRST),
    (465, True, None, INSIDE, LOGIN_FIRST),
    # with one: to everywhere
    (25, True, Login("PLAIN", JOE), OUTSIDE, TAKEN),
    (25, True, Login("LOGIN", JOE), OUTSIDE, TAKEN),
    (25, True, Login("CRAM-MD5", OLD), OUTSIDE, TAKEN),
    (587, True, Login("PLAIN", JOE), OUTSIDE, TAKEN),
    (587, True, Login("LOGIN", OLD), OUTSIDE, TAKEN),
    (465, True, Login("PLAIN", OLD), OUTSIDE, TAKEN),
    (465, True, Login("LOGIN", JOE), OUTSIDE, TAKEN),
    (465, True, Login("SCRAM-SHA-256", JOE), OUTSIDE, TAKEN),
    (465, True, Login("SCRAM-SHA-256", OLD), OUTSIDE, TAKEN),
    # with a wrong password, or where the password would be heard by others: nowhere
    (25, True, Login("PLAIN", JOE, False), OUTSIDE, NOT_YOU),
    (25, True, Login("CRAM-MD5", OLD, False), OUTSIDE, NOT_YOU),
    (25, True, Login("CRAM-MD5", JOE), OUTSIDE, NOT_YOU),  # a hash does not answer challenges
    (587, True, Login("LOGIN", JOE, False), OUTSIDE, NOT_YOU),
    (587, True, Login("PLAIN", "nobody@example.com"), OUTSIDE, NOT_YOU),
    (465, True, Login("SCRAM-SHA-256", JOE, False), OUTSIDE, NOT_YOU),
    (587, False, Login("PLAIN", JOE), OUTSIDE, TLS_FIRST),
    (25, False, Login("LOGIN", JOE), OUTSIDE, TLS_FIRST),
]


class Clients:
    """Ways to send one message to the servers. Each returns the answers that count, in their order."""

    def __init__(self, ports: dict[int, int], home: Path, password: str) -> None:
        self.ports = ports
        self.password = password
        self.context = ssl.create_default_context(cafile=home / "control/servercert.pem")

    def secret(self, login: Login) -> str:
        return self.password if login.right else "wrong"

    def by_smtplib(self, port: int, tls: bool, login: Login | None, recipient: str, subject: str) -> list[str]:
        """With a login, the message is tried before it as well."""
        if port == 465:
            smtp: smtplib.SMTP = smtplib.SMTP_SSL(
                ADDRESS, self.ports[port], NAME, timeout=TIMEOUT, context=self.context
            )
        else:
            smtp = smtplib.SMTP(ADDRESS, self.ports[port], NAME, TIMEOUT)
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
                return [before, f"{error.smtp_code} {text(error.smtp_error)}"]
            return [before, send(smtp, recipient, subject)]

    def log_in(self, smtp: smtplib.SMTP, login: Login) -> None:
        """Raises SMTPAuthenticationError."""
        smtp.user, smtp.password = login.user, self.secret(login)
        steps: dict[str, Callable[[bytes | None], str | None]] = {
            "PLAIN": smtp.auth_plain,
            "LOGIN": smtp.auth_login,
            "CRAM-MD5": smtp.auth_cram_md5,
            "SCRAM-SHA-256": Scram(login.user, self.secret(login)),
        }
        smtp.auth(login.mechanism, steps[login.mechanism])

    def by_swaks(self, port: int, tls: bool, login: Login | None, recipient: str, subject: str) -> list[str]:
        """The first refusal, or the answer to the message."""
        command = ["swaks", "--server", f"{ADDRESS}:{self.ports[port]}", "--helo", NAME, "--from", SENDER]
        command += ["--to", recipient, "--header", f"Subject: {subject}", "--timeout", str(TIMEOUT)]
        if tls:
            command += ["--tls-on-connect" if port == 465 else "--tls"]
        if login:
            command += ["--auth", login.mechanism, "--auth-user", login.user, "--auth-password", self.secret(login)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = [line.rstrip() for line in done.stdout.splitlines() if line.startswith("<")]  # <-, <~, <**, <~*
        refusals = [line[4:] for line in said if "*" in line[:4]]
        return [*refusals, *(line[4:] for line in said if line[4:].startswith(TAKEN))][:1] or [done.stderr or "nothing"]


class Scram:
    """The client's side of SCRAM-SHA-256, as smtplib calls it."""

    def __init__(self, user: str, password: str) -> None:
        self.client = ScramClient(["SCRAM-SHA-256"], user, password)
        self.asked = False

    def __call__(self, challenge: bytes | None = None) -> str:
        if challenge is None:
            first: str = self.client.get_client_first()
            return first
        if self.asked:
            self.client.set_server_final(challenge.decode())  # the server has proved that it knows the password, too
            return ""
        self.asked = True
        self.client.set_server_first(challenge.decode())
        final: str = self.client.get_client_final()
        return final


def send(smtp: smtplib.SMTP, recipient: str, subject: str) -> str:
    """The answer of the first command that is refused, or to the message."""
    answer = smtp.mail(SENDER)
    if answer[0] == 250:
        answer = smtp.rcpt(recipient)
    if answer[0] == 250:
        answer = smtp.data(f"From: {SENDER}\r\nTo: {recipient}\r\nSubject: {subject}\r\n\r\nHello.\r\n")
    return f"{answer[0]} {text(answer[1])}"


def text(answer: bytes) -> str:
    return answer.decode("ascii", "replace")


def main(ports: dict[int, int], home: Path, password: str) -> int:
    """Go the round and print how each step went."""
    clients = Clients(ports, home, password)
    ways = {"smtplib": clients.by_smtplib}
    if shutil.which("swaks"):
        ways["swaks"] = clients.by_swaks
    else:
        print("submission: swaks is not installed: its half of the round is left out")
    status = 0
    for way, client in ways.items():
        for number, (port, tls, login, recipient, wanted) in enumerate(ROUND):
            if way == "swaks" and login and (not tls or login.mechanism.startswith("SCRAM")):
                continue  # it asks for no login that is not offered, and does not know SCRAM
            subject = f"{way} {number}"
            try:
                answers = client(port, tls, login, recipient, subject)
            except (OSError, smtplib.SMTPException) as error:
                answers = [f"no answer: {error}"]
            expected = [BEFORE[port], wanted] if login and way == "smtplib" else [wanted]
            stored = is_stored(home / "Maildir", recipient, subject)
            right = len(answers) == len(expected) and all(map(str.startswith, answers, expected))
            right = right and stored == (wanted == TAKEN)
            status |= not right
            print(f"submission: {'ok' if right else 'NOT OK'}: {named(way, port, tls, login)} to {recipient}:", end=" ")
            print(f"{', then '.join(answers)}, {'stored' if stored else 'not stored'}", flush=True)
    return status


def named(way: str, port: int, tls: bool, login: Login | None) -> str:
    """What a step does, for people."""
    who = f"{login.mechanism} as {login.user}{'' if login.right else ', wrong password'}" if login else "no login"
    return f"{way}, port {port}{'' if tls else ' without TLS'}, {who}"


if __name__ == "__main__":
    main_ports = dict(zip((25, 587, 465), map(int, sys.argv[1:4]), strict=True))
    sys.exit(main(main_ports, Path(sys.argv[4]), sys.argv[5]))
