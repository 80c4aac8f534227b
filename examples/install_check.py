"""Print what this host still needs for the programs, for examples/install: one line for each fact.

Reads accounts, control files and the service directories. Changes nothing.
"""

import grp
import os
import pwd
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

OK, MISSING, NOTE = "ok", "missing", "note"
SERVICE_DIRECTORIES = ("/etc/service", "/service", "/etc/sv", "/run/service")
SUPERVISORS = ("runsvdir", "svscan", "s6-svscan", "systemctl")
RULES = r"""'127.0.0.1:allow,RELAYCLIENT=""\n:allow\n'"""  # this host may relay, as in docs/roaming.md
SECRETS_GROUP = "mailauth"  # may read the certificate's key and the password hashes
STORE = "/var/lib/relay"
NEW_GROUP = "groupadd --force --system"
NEW_ACCOUNT = "useradd --system --user-group --no-create-home --shell /usr/sbin/nologin"


class Fact(NamedTuple):
    """`state` is OK, MISSING or NOTE. NOTE: optional, or for the administrator to judge."""

    state: str
    text: str


class Service(NamedTuple):
    """A service directory whose run script runs tcpserver."""

    directory: Path
    script: str
    account: str | None  # of -u
    rules: str | None  # of -x

    def runs(self, program: str) -> bool:
        """Whether the script names the program."""
        return re.search(rf"\b{program}\b", self.script) is not None


def check(prefix: Path, programs: list[str]) -> int:
    """Print all facts. Return 1 if something is missing, else 0."""
    home = Path(os.environ.get("QMAILHOME") or "/var/qmail")
    services = find_services()
    facts = [
        *program_facts(prefix, programs),
        *account_facts(services),
        *control_facts(home),
        *rules_facts(services),
        *queue_facts(prefix, home, services),
        *secret_facts(home, services),
        *store_facts(home, services),
        *service_facts(services),
    ]
    for fact in facts:
        print(f"install: {fact.state}: {fact.text}")
    return int(any(fact.state == MISSING for fact in facts))


def find_services() -> list[Service]:
    """Return the services whose run script runs tcpserver, each once: /etc/service usually has links to /etc/sv."""
    found: dict[Path, Service] = {}
    for directory in map(Path, SERVICE_DIRECTORIES):
        for script in sorted(filter(Path.is_file, directory.glob("*/run"))):
            text = script.read_text(errors="replace")
            if "tcpserver" in text:
                found.setdefault(script.resolve(), read_service(script.parent, text))
    return list(found.values())


def read_service(directory: Path, script: str) -> Service:
    """Return the service. The account and the rules may be defaults: `-u "${ACCOUNT:-qmaild}"`."""
    account = re.search(r'-u "?(?:\$\{ACCOUNT:-)?([\w.-]+)', script)
    rules = re.search(r'-x "?(?:\$\{RULES:-)?(/[^"} ]+)', script)
    return Service(directory, script, account and account[1], rules and rules[1])


def program_facts(prefix: Path, programs: list[str]) -> Iterator[Fact]:
    """The programs are in PREFIX/bin, and a shell finds these and no others."""
    directory = prefix / "bin"
    absent = [name for name in programs if not os.access(directory / name, os.X_OK)]
    if absent:
        yield Fact(MISSING, f"{' '.join(absent)} in {directory}: examples/install {prefix}")
        return
    yield Fact(OK, f"{len(programs)} programs in {directory}")
    if str(directory) not in os.get_exec_path():
        yield Fact(NOTE, f"{directory} is not in PATH")
    first = [path for name in programs if (path := shutil.which(name)) and path != str(directory / name)]
    if first:
        yield Fact(NOTE, f"PATH finds other programs first: {' '.join(first)}")


def account_facts(services: list[Service]) -> Iterator[Fact]:
    """There are the accounts that the servers run as. qmail installs qmaild and qmaill, too."""
    accounts = {"qmaild": "runs the SMTP servers", "qmaill": "writes the logs"}
    for service in services:
        if service.account:
            accounts.setdefault(service.account, f"runs {service.directory}")
    for name, purpose in accounts.items():
        if find_account(name):
            yield Fact(OK, f"account {name}")
        else:
            yield Fact(MISSING, f"account {name}, which {purpose}: {NEW_ACCOUNT} {name}")


def find_account(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def control_facts(home: Path) -> Iterator[Fact]:
    """The control files that no host can do without."""
    control = home / "control"
    make = "" if control.is_dir() else f"mkdir -p {control}; "
    for name, example, purpose in (
        ("me", "mail.example.org", "the name of the server; without it qmail-smtpd answers 421"),
        ("rcpthosts", "example.org", "your domains; without it every client may send to any domain"),
    ):
        if (control / name).is_file():
            yield Fact(OK, f"{control / name}")
        else:
            yield Fact(MISSING, f"{control / name}, {purpose}: {make}echo {example} >{control / name}")


def rules_facts(services: list[Service]) -> Iterator[Fact]:
    """There are the compiled rules of the run scripts. Without them tcpserver drops every connection."""
    for path in sorted({service.rules for service in services if service.rules} or {"/etc/tcp.smtp.cdb"}):
        source = path.removesuffix(".cdb")
        if os.path.exists(path):
            yield Fact(OK, f"rules {path}")
        else:
            make = "" if os.path.exists(source) else f"printf {RULES} >{source}; "
            yield Fact(MISSING, f"rules {path}: {make}tcprules {path} {source}.tmp <{source}")


def queue_facts(prefix: Path, home: Path, services: list[Service]) -> Iterator[Fact]:
    """qmail-smtpd has a program that takes the messages."""
    default = home / "bin" / "qmail-queue"
    if os.access(default, os.X_OK):
        yield Fact(OK, f"mail queue {default}")
        return
    hint = f"export QMAILQUEUE={prefix}/bin/sendmail-queue passes mail to the sendmail of another mailer"
    smtp = [service for service in services if service.runs("qmail-smtpd")]
    for service in smtp:
        queue = re.search(r"^\s*export\b.*\bQMAILQUEUE=[\"']?([^\s\"']+)", service.script, re.MULTILINE)
        if queue is None:
            yield Fact(MISSING, f"mail queue of {service.directory}: there is no {default}. {hint}")
        elif not os.access(queue[1], os.X_OK):
            yield Fact(MISSING, f"mail queue of {service.directory}: {queue[1]} is not a program")
        else:
            yield Fact(OK, f"mail queue of {service.directory}: {queue[1]}")
    if not smtp:
        yield Fact(NOTE, f"there is no {default}: set QMAILQUEUE in each run script. {hint}")


def secret_facts(home: Path, services: list[Service]) -> Iterator[Fact]:
    """Every server can read the certificate and the users, and other accounts cannot."""
    accounts = sorted({service.account for service in services if service.account} or {"qmaild"})
    for name, without in (("servercert.pem", "without it there is no TLS"), ("users", "only checkusers needs it")):
        path = home / "control" / name
        if not path.exists():
            yield Fact(NOTE, f"no {path}: {without}")
            continue
        mode = path.stat().st_mode
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            yield Fact(MISSING, f"{path} is readable or writable for all accounts: chmod 640 {path}")
        for account in accounts:
            if find_account(account) is None:
                continue
            if may_read(account, path):
                yield Fact(OK, f"{account} may read {path}")
            else:
                make = "" if has_group(SECRETS_GROUP) else f"{NEW_GROUP} {SECRETS_GROUP}; "
                give = f"{make}chgrp {SECRETS_GROUP} {path}; chmod 640 {path}; usermod -aG {SECRETS_GROUP} {account}"
                yield Fact(MISSING, f"{account} may not read {path}: {give}")


def may_read(account: str, path: Path) -> bool:
    """Whether the account may read the file, and enter the directories on the way."""
    uid = pwd.getpwnam(account).pw_uid
    groups = set(os.getgrouplist(account, pwd.getpwnam(account).pw_gid))

    def permits(found: os.stat_result, bit: int) -> bool:
        shift = 6 if found.st_uid == uid else 3 if found.st_gid in groups else 0
        return uid == 0 or bool(found.st_mode >> shift & bit)

    return permits(path.stat(), 4) and all(permits(parent.stat(), 1) for parent in path.resolve().parents)


def store_facts(home: Path, services: list[Service]) -> Iterator[Fact]:
    """The store of POP-before-SMTP is there, and the servers that run relay-allow may write to it."""
    accounts = {service.account for service in services if service.runs("relay-allow") and service.account}
    if not accounts or (home / "control" / "relaystore").exists():
        return
    setting = home / "control" / "relaydir"
    path = Path(setting.read_text().split("\n")[0].strip() if setting.is_file() else STORE)
    if not path.is_dir():
        make = f"{NEW_GROUP} relay; install -d -o root -g relay -m 2775 {path}"
        yield Fact(MISSING, f"{path}, which holds the logins: {make}")
        return
    found = path.stat()
    for account in sorted(filter(find_account, accounts)):
        entry = pwd.getpwnam(account)
        if found.st_uid == entry.pw_uid or found.st_gid in os.getgrouplist(account, entry.pw_gid):
            yield Fact(OK, f"{account} may write to {path}")
        else:
            yield Fact(MISSING, f"{account} may not write to {path}: usermod -aG {group_name(found.st_gid)} {account}")


def has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def service_facts(services: list[Service]) -> Iterator[Fact]:
    """A supervisor is installed, and runs services."""
    if not any(map(shutil.which, SUPERVISORS)):
        yield Fact(MISSING, "a supervisor: on Debian and Ubuntu, apt-get install runit-run")
    for service in services:
        logged = os.access(service.directory / "log" / "run", os.X_OK)
        yield Fact(OK, f"service {service.directory}{'' if logged else ', without a log'}")
    if not services:
        yield Fact(NOTE, f"no service in {', '.join(SERVICE_DIRECTORIES)}: see docs/roaming.md")
