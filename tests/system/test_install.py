"""examples/install: all programs in a prefix without a compiler, and its report of what a host still needs."""

import os
import pwd
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.kit.examples import copy_tree
from tests.kit.server import needs_root, open_to_all
from tests.kit.support import ROOT

pytestmark = pytest.mark.slow

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRIPTS = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-scripts"]
PROGRAMS = sorted([*PYPROJECT["project"]["scripts"], *SCRIPTS.values()])
ACCOUNT = pwd.getpwuid(os.getuid()).pw_name
CHECK = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pathlib import Path; import install_check as c"


def install(tree: Path, *words: object, **changes: str) -> "subprocess.CompletedProcess[str]":
    environ = {key: value for key, value in os.environ.items() if key not in ("PYTHON", "QMAILHOME", "QMAILQUEUE")}
    command = [tree / "examples/install", *map(str, words)]
    return subprocess.run(command, env=environ | changes, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, "subprocess.CompletedProcess[str]"]:
    """A checkout, a prefix that has been installed from it without a compiler, and the result."""
    folder = tmp_path_factory.mktemp("install")
    tree, prefix = copy_tree(folder), folder / "prefix"
    umask = os.umask(0o077)
    done = install(tree, prefix, PYTHON=sys.executable, CC="/bin/false", QMAILHOME=str(folder / "nowhere"))
    os.umask(umask)
    return tree, prefix, done


def test_all_programs_and_extras_are_installed_without_a_compiler(
    installed: tuple[Path, Path, "subprocess.CompletedProcess[str]"],
) -> None:
    tree, prefix, done = installed
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith(f"install: making {prefix}/lib/ucspi-smtpd with Python 3.")
    assert f"install: ok: {len(PROGRAMS)} programs in {prefix}/bin" in done.stdout
    assert sorted(path.name for path in (prefix / "bin").iterdir()) == PROGRAMS
    assert {path.stem for path in prefix.glob("share/man/man*/*")} >= set(PROGRAMS)
    assert (prefix / "share/man/man8/qmail-smtpd.8").read_text().startswith(".TH QMAIL")
    assert (prefix / "share/doc/ucspi-smtpd/tcpserver.md").read_text() == (ROOT / "docs/tcpserver.md").read_text()
    assert (prefix / "share/bash-completion/completions/relaytest").is_file()
    words = [
        prefix / "lib/ucspi-smtpd/bin/python3",
        "-c",
        "import argon2, bcrypt, rich, scramp, tcpserver; print(tcpserver)",
    ]
    imported = subprocess.run(words, capture_output=True, text=True, cwd="/")
    assert (imported.returncode, imported.stderr) == (0, "")
    assert f"{prefix}/lib" in imported.stdout  # not the checkout, which may be removed
    assert sorted(tree.iterdir()) == sorted(tree / path.name for path in ROOT.iterdir() if (tree / path.name).exists())


def test_the_programs_work_for_every_account(
    installed: tuple[Path, Path, "subprocess.CompletedProcess[str]"], tmp_path: Path
) -> None:
    """Although root's umask keeps files from other accounts, and the rules are compiled by the installed program."""
    _, prefix, _ = installed
    done = subprocess.run(
        [prefix / "bin/tcprules", tmp_path / "cdb", tmp_path / "tmp"], input=":allow\n", text=True, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    for path in (prefix / "lib").rglob("*"):
        assert path.is_symlink() or path.stat().st_mode & 0o004, path


def test_a_second_run_updates_and_an_old_venv_is_replaced(
    installed: tuple[Path, Path, "subprocess.CompletedProcess[str]"],
) -> None:
    tree, prefix, _ = installed
    source = tree / "tcprules/lookup.py"
    source.write_text(source.read_text() + "\nUPDATED = True\n")
    (packages,) = prefix.glob("lib/ucspi-smtpd/lib/python3*/site-packages")
    shutil.rmtree(packages)  # as after an upgrade of Debian, when the venv has the packages of another Python
    done = install(tree, prefix, PYTHON=sys.executable)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"install: making {prefix}/lib/ucspi-smtpd" in done.stdout
    words = [prefix / "lib/ucspi-smtpd/bin/python3", "-c", "import tcprules.lookup; tcprules.lookup.UPDATED"]
    assert subprocess.run(words, cwd="/").returncode == 0


def test_other_programs_of_the_same_names_are_kept(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tcpserver").write_text("the C program")
    (tmp_path / "bin/tcprules").symlink_to("/nowhere")
    done = install(ROOT, tmp_path)
    assert (done.returncode, done.stdout) == (100, "")
    text = f"{tmp_path}/bin has other programs of these names: tcprules tcpserver"
    assert done.stderr == f"install: fatal: {text}. Move them away, or choose another PREFIX\n"
    assert (tmp_path / "bin/tcpserver").read_text() == "the C program"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin"]


@pytest.mark.parametrize("words", [["--help"], ["relative"], ["/a", "/b"], ["--check", "--check"], [""]])
def test_anything_but_check_and_a_prefix_is_a_usage_error(words: list[str]) -> None:
    done = install(ROOT, *words)
    assert (done.returncode, done.stdout) == (100, "")
    assert done.stderr == "usage: examples/install [ --check ] [ PREFIX ] (PREFIX begins with /)\n"


# the check


class Host:
    """A qmail home and service directories, and what install_check reports about them."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "qmail"
        self.services = folder / "service"
        (self.home / "control").mkdir(parents=True)
        self.services.mkdir()

    def write(self, name: str, text: str = "x\n", mode: int = 0o644) -> Path:
        path = self.home / "control" / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def service(self, name: str, script: str) -> Path:
        (self.services / name).mkdir()
        (self.services / name / "run").write_text(script)
        return self.services / name

    def lines(self, *names: str) -> list[str]:
        """Return what the functions of these names print."""
        code = f"""{CHECK}
c.SERVICE_DIRECTORIES = (sys.argv[2],)
home, services = Path(sys.argv[1]), c.find_services()
given = dict(prefix=Path("/prefix"), home=home, services=services)
for name in sys.argv[3:]:
    function = getattr(c, name + "_facts")
    for fact in function(*(given[p] for p in function.__code__.co_varnames[: function.__code__.co_argcount])):
        print(*fact, sep=": ")
"""
        words = [sys.executable, "-c", code, ROOT / "examples", self.home, self.services, *names]
        done = subprocess.run(words, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    open_to_all(tmp_path)
    return Host(tmp_path)


def test_missing_control_files_are_named_with_what_happens_without_them(host: Host) -> None:
    assert [line.split(":")[0] for line in host.lines("control")] == ["missing", "missing"]
    me, rcpthosts = host.lines("control")
    assert f"{host.home}/control/me, " in me
    assert "421" in me
    assert "every client may send to any domain" in rcpthosts
    host.write("me")
    host.write("rcpthosts")
    assert host.lines("control") == [f"ok: {host.home}/control/me", f"ok: {host.home}/control/rcpthosts"]


@pytest.mark.parametrize("beginning", ["the directory is there", "it is not"])
def test_the_commands_that_it_prints_supply_what_is_missing(host: Host, beginning: str) -> None:
    if beginning == "it is not":
        (host.home / "control").rmdir()
    for line in host.lines("control"):
        subprocess.run(["sh", "-ec", line.rpartition(": ")[2]], check=True)
    assert all(line.startswith("ok: ") for line in host.lines("control"))
    assert (host.home / "control/me").read_text() == "mail.example.org\n"


def test_accounts_are_those_of_the_run_scripts(host: Host) -> None:
    host.service("a", f'exec tcpserver -u "${{ACCOUNT:-{ACCOUNT}}}" 0 25 qmail-smtpd\n')
    host.service("b", "exec tcpserver -u nosuchaccount 0 110 qmail-popup\n")
    host.service("c", "exec other -u nosuchaccount2\n")
    lines = host.lines("account")
    assert f"ok: account {ACCOUNT}" in lines
    assert [line for line in lines if "nosuchaccount" in line] == [
        f"missing: account nosuchaccount, which runs {host.services}/b: useradd --system --user-group --no-create-home"
        " --shell /usr/sbin/nologin nosuchaccount"
    ]


def test_each_smtp_service_needs_a_queue(host: Host, tmp_path: Path) -> None:
    host.service("a", "exec tcpserver 0 25 qmail-smtpd\n")
    host.service("b", f"export QMAILQUEUE={sys.executable}\nexec tcpserver 0 25 qmail-smtpd\n")
    host.service("c", "export QMAILQUEUE=/no/queue\nexec tcpserver 0 25 qmail-smtpd\n")
    host.service("d", "exec tcpserver 0 110 qmail-popup\n")
    first, second, third = host.lines("queue")
    assert first.startswith(
        f"missing: mail queue of {host.services}/a: there is no {host.home}/bin/qmail-queue."
        " export QMAILQUEUE=/prefix/bin/sendmail-queue passes"
    )
    assert second == f"ok: mail queue of {host.services}/b: {sys.executable}"
    assert third == f"missing: mail queue of {host.services}/c: /no/queue is not a program"
    (host.home / "bin").mkdir()
    shutil.copy("/bin/true", host.home / "bin/qmail-queue")
    assert host.lines("queue") == [f"ok: mail queue {host.home}/bin/qmail-queue"]


def test_the_rules_are_those_of_the_run_scripts(host: Host, tmp_path: Path) -> None:
    host.service("a", f'exec tcpserver -x "${{RULES:-{tmp_path}/smtp.cdb}}" 0 25 qmail-smtpd\n')
    command = f"tcprules {tmp_path}/smtp.cdb {tmp_path}/smtp.tmp <{tmp_path}/smtp"
    make = rf"""printf '127.0.0.1:allow,RELAYCLIENT=""\n:allow\n' >{tmp_path}/smtp"""
    assert host.lines("rules") == [f"missing: rules {tmp_path}/smtp.cdb: {make}; {command}"]
    subprocess.run(["sh", "-ec", make], check=True)
    assert (tmp_path / "smtp").read_text() == '127.0.0.1:allow,RELAYCLIENT=""\n:allow\n'
    assert host.lines("rules") == [f"missing: rules {tmp_path}/smtp.cdb: {command}"]
    (tmp_path / "smtp.cdb").touch()
    assert host.lines("rules") == [f"ok: rules {tmp_path}/smtp.cdb"]


@needs_root
def test_every_server_must_be_able_to_read_the_secrets_and_no_other_account(host: Host) -> None:
    host.service("smtp", "exec tcpserver -u daemon 0 25 qmail-smtpd\n")
    host.service("pop3", "exec tcpserver -u bin 0 110 qmail-popup\n")
    users = host.write("users", mode=0o640)
    assert f"note: no {host.home}/control/servercert.pem: without it there is no TLS" in host.lines("secret")
    make = "" if Path("/etc/group").read_text().count("\nmailauth:") else "groupadd --force --system mailauth; "
    give = f"{make}chgrp mailauth {users}; chmod 640 {users}; usermod -aG mailauth"
    assert [line for line in host.lines("secret") if "users" in line] == [
        f"missing: {account} may not read {users}: {give} {account}" for account in ("bin", "daemon")
    ]
    shutil.chown(users, group="daemon")
    assert f"ok: daemon may read {users}" in host.lines("secret")
    users.chmod(0o644)
    assert f"missing: {users} is readable or writable for all accounts: chmod 640 {users}" in host.lines("secret")
    users.chmod(0o640)
    host.home.chmod(0o700)
    assert not [line for line in host.lines("secret") if line.startswith("ok")]


@needs_root
def test_pop_before_smtp_needs_a_store_that_the_server_may_write_to(host: Host, tmp_path: Path) -> None:
    host.service("pop3", "exec tcpserver -u daemon 0 110 qmail-popup me checkusers relay-allow qmail-pop3d Maildir\n")
    store = tmp_path / "relay"
    host.write("relaydir", f"{store}\n")
    (missing,) = host.lines("store")
    assert missing.startswith(f"missing: {store}, which holds the logins: groupadd --force --system relay; install ")
    store.mkdir(0o775)
    shutil.chown(store, group="bin")
    assert host.lines("store") == [f"missing: daemon may not write to {store}: usermod -aG bin daemon"]
    shutil.chown(store, group="daemon")
    assert host.lines("store") == [f"ok: daemon may write to {store}"]


def test_check_alone_exits_with_1_if_something_is_missing(tmp_path: Path) -> None:
    done = install(ROOT, "--check", tmp_path, QMAILHOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (1, "")
    assert f"install: missing: {' '.join(PROGRAMS)} in {tmp_path}/bin: examples/install {tmp_path}\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_place_of_a_run_script_is_no_service(host: Host) -> None:
    (host.services / "a/run").mkdir(parents=True)
    host.service("b", "exec tcpserver 0 25 qmail-smtpd\n")
    assert [line for line in host.lines("service") if line.startswith("ok: ")] == [
        f"ok: service {host.services}/b, without a log"
    ]


@needs_root
def test_a_check_by_an_account_that_may_not_read_everything_is_a_clear_line(tmp_path: Path) -> None:
    """README has `examples/install --check`, which changes nothing: it does not need root."""
    open_to_all(tmp_path)
    tree = copy_tree(tmp_path)
    (tmp_path / "control").mkdir(0o700)
    words = ["setpriv", "--reuid=nobody", "--clear-groups", os.path.realpath(sys.executable)]
    words += [tree / "examples/install.py", "--check", tmp_path]
    done = subprocess.run(words, env={"QMAILHOME": str(tmp_path)}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (111, "")
    assert done.stderr == f"install: fatal: [Errno 13] Permission denied: '{tmp_path}/control/me'\n"
