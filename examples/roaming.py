"""Run the two servers of examples/roaming. With --check, test logins and mail on temporary servers and exit.

However this process is stopped (Ctrl-C, SIGTERM, a closed terminal), it also stops the servers and all sessions.
"""

import os
import shlex
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path

from servers import ADDRESS, EXAMPLES, PROGRAMS, Servers, fatal, run

HOME = EXAMPLES.parent / ".roaming"
USER, PASSWORD = "joe@example.com", "tanstaaf"  # only this host can reach the servers
WINDOW = 2400  # seconds that relaying is allowed after a login
CHECK_WINDOW = 6  # for --check, which waits until relaying is refused again

# qmail-pop3d does not run as root. Without capabilities, the account nobody cannot reach a checkout in root's home.
# qmail-pop3d therefore keeps those of a user namespace. If the host refuses a namespace, as in many containers, it
# keeps the four that it needs. Without no_setuid_fixup, access(2) would ignore them.
CAPABILITIES = "+dac_override,+fowner,+setgid,+setuid"
AS_NOBODY = (
    ["unshare", "--user", "--map-user=nobody", "--map-group=nogroup"],
    ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--securebits=+no_setuid_fixup"]
    + [f"--inh-caps={CAPABILITIES}", f"--ambient-caps={CAPABILITIES}"],
)
RULES = """\
127.0.0.1:allow,RELAYCLIENT=""
127.0.0.5:allow,DATABYTES="2000"
127.0.0.7:deny
:allow
"""
BANNER = """\
roaming: {address} ports {smtp} (SMTP) and {pop3} (POP3), user {user}, password {password}; Ctrl-C stops them
roaming: after a POP3 login its address may relay for {minutes} minutes; control files, logins and mail are in {home}
roaming: four commands to try in another terminal:
  {python} {send} {smtp} 127.0.0.5 someone@elsewhere.example  # refused
  {python} {fetch} {pop3} 127.0.0.5 {user} {password}
  {python} {send} {smtp} 127.0.0.5 someone@elsewhere.example  # accepted now
  QMAILHOME={home} {list}
"""


class Roaming(Servers):
    """SMTP and POP3, in place of ports 25 and 110."""

    services = ("smtp-after-pop", "pop3")
    ports = "2525 2110"
    other_ports = "2626 2211"
    count = "two"

    def prepare(self, home: Path, for_check: bool) -> None:
        """Create control files, a user with mail, a store and rules, unless they exist."""
        if (home / "control").is_dir():
            print(f"roaming: using the control files, the logins and the mail in {home}")
            return
        new = home / "control.new"
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(EXAMPLES / "control", new)
        (home / "relay").mkdir(exist_ok=True)
        (home / "relay").chmod(0o2775)
        (new / "relaydir").write_text(f"{home}/relay\n")
        (new / "relayseconds").write_text(f"{CHECK_WINDOW if for_check else WINDOW}\n")
        (new / "relayproxies").write_text("127.0.0.1 ::1\n")  # not the default 127.0.0.0/8: the test clients are in it
        add_user(home, new / "users")
        run([PROGRAMS / "tcprules", home / "tcp.smtp.cdb", home / "tcp.smtp.tmp"], RULES)
        new.rename(home / "control")

    @cached_property
    def before_pop3(self) -> list[str]:
        """The command that runs qmail-pop3d under another account, empty if that is not needed."""
        return as_nobody() if os.geteuid() == 0 else []

    def command(self, service: str) -> list[str | Path]:
        return [*(self.before_pop3 if service == "pop3" else []), EXAMPLES / service / "run"]

    def variables(self, service: str, for_check: bool) -> dict[str, str]:
        return {"ACCOUNT": "nobody"} if service == "pop3" and self.before_pop3 else {}

    def banner(self, home: Path, ports: list[int]) -> str:
        paths = {
            "python": PROGRAMS / "python3",
            "send": EXAMPLES / "send.py",
            "fetch": EXAMPLES / "fetch.py",
            "list": PROGRAMS / "relay-list",
            "home": home,
        }
        values = {name: shlex.quote(str(path)) for name, path in paths.items()}
        smtp, pop3 = ports
        login = {"user": USER, "password": PASSWORD, "minutes": WINDOW // 60}
        return BANNER.format(address=ADDRESS, smtp=smtp, pop3=pop3, **login, **values)

    def check_command(self, home: Path, ports: list[int]) -> list[str | Path]:
        arguments = [*map(str, ports), str(home), USER, PASSWORD, str(CHECK_WINDOW)]
        return [sys.executable, EXAMPLES / "roaming_check.py", *arguments]


def add_user(home: Path, users: Path) -> None:
    """Add the test user with a password, and with one message in its Maildir."""
    run([PROGRAMS / "checkusers", "--set", USER], PASSWORD + "\n", {"CHECKUSERS_FILE": str(users)})
    users.write_text(f"{users.read_text().rstrip()}::::{home}/joe\n")
    for part in ("new", "cur", "tmp"):
        (home / "joe" / "Maildir" / part).mkdir(parents=True, exist_ok=True)
    welcome = home / "joe/Maildir/new/1.welcome"
    welcome.write_text(f"To: {USER}\nSubject: welcome\n\nHello.\n")
    os.utime(welcome, (0, 0))  # qmail-pop3d does not list messages of the current second


def as_nobody() -> list[str]:
    """Return the command that runs another one as nobody. End with 111 if this host allows none."""
    for command in AS_NOBODY:
        if shutil.which(command[0]) and not subprocess.run([*command, "true"], capture_output=True).returncode:
            return command
    return fatal(
        111, "the POP3 server does not run as root, and this host refuses unshare and setpriv: use another account"
    )


if __name__ == "__main__":
    sys.exit(Roaming().main(HOME))
