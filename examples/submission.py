"""Run the three servers of examples/submission. With --check, test logins and mail on temporary servers and exit.

However this process is stopped (Ctrl-C, SIGTERM, a closed terminal), it also stops the servers and all sessions.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

from servers import ADDRESS, EXAMPLES, PROGRAMS, Servers, fatal, run

HOME = EXAMPLES.parent / ".submission"
PASSWORD = "tanstaaf"  # noqa: S105  # only this host can reach the servers
USERS = {"joe@example.com": "SCRAM-SHA-256", "old@example.com": "PLAIN"}  # PLAIN: for CRAM-MD5
RULES = ":allow\n"  # no address may relay without a login

BANNER = """\
submission: {address} ports {smtp} (for 25), {submission} (for 587), {submissions} (for 465, TLS); Ctrl-C stops them
submission: users {users}, password {password}; control files, certificate and mail in {home}
submission: four commands to try in another terminal:
  swaks --server {address}:{submission} --tls --auth PLAIN --auth-user joe@example.com --auth-password {password} {mail}
  swaks --server {address}:{submission} --tls {mail}  # refused: no login
  swaks --server {address}:{smtp} --tls {mail}  # refused: no login, and recipient not at example.com
  CHECKUSERS_FILE={home}/control/users {checkusers} --set you@example.com
"""
MAIL = "--from joe@example.com --to someone@elsewhere.example"


class Submission(Servers):
    """SMTP, submission and SMTPS, in place of ports 25, 587 and 465."""

    services = ("smtp", "submission", "submissions")
    ports = "2525 2587 2465"
    other_ports = "2626 2688 2566"
    count = "three"

    def prepare(self, home: Path, for_check: bool) -> None:
        """Create control files, a certificate, users and rules, unless they exist (users may have edited them)."""
        if (home / "control").is_dir():
            print(f"submission: using the control files, the users and the mail in {home}")
            return
        new = home / "control.new"
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(EXAMPLES / "control", new)
        make_certificate(new)
        for user, scheme in USERS.items():
            command: list[str | Path] = [PROGRAMS / "checkusers", "--set", user, "--scheme", scheme]
            run(command, PASSWORD + "\n", {"CHECKUSERS_FILE": str(new / "users")})
        run([PROGRAMS / "tcprules", home / "tcp.smtp.cdb", home / "tcp.smtp.tmp"], RULES)
        new.rename(home / "control")

    def command(self, service: str) -> list[str | Path]:
        return [EXAMPLES / "services" / service / "run"]

    def variables(self, service: str, for_check: bool) -> dict[str, str]:
        """Return SMTPAUTH for port 25: one password is stored as PLAIN. The check's wrong passwords cost no delay."""
        return {"SMTPAUTH": "+cram"} | ({"AUTHSLEEP": "0"} if for_check else {})

    def banner(self, home: Path, ports: list[int]) -> str:
        values = {"home": shlex.quote(str(home)), "checkusers": shlex.quote(str(PROGRAMS / "checkusers"))}
        values |= {"users": " ".join(USERS), "password": PASSWORD, "mail": MAIL}
        return BANNER.format(address=ADDRESS, **values, **dict(zip(self.services, ports, strict=True)))

    def check_command(self, home: Path, ports: list[int]) -> list[str | Path]:
        return [sys.executable, EXAMPLES / "submission_check.py", *map(str, ports), home, PASSWORD]


def make_certificate(control: Path) -> None:
    """Create control/servercert.pem: the key and a self-signed certificate. A real site needs one from a CA."""
    if not shutil.which("openssl"):
        fatal(100, "openssl is needed to make a certificate: it is not in PATH")
    file = control / "servercert.pem"
    names = f"subjectAltName=IP:{ADDRESS},DNS:localhost"
    subject = ["-subj", "/CN=localhost", "-addext", names, "-days", "3650"]
    os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
    run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            *subject,
            "-keyout",
            file,
            "-out",
            control / "cert",
        ]
    )
    with file.open("ab") as pem:
        pem.write((control / "cert").read_bytes())
    (control / "cert").unlink()


if __name__ == "__main__":
    sys.exit(Submission().main(HOME))
