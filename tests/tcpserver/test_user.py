"""-u, -g, -U: tcpserver gives up root for good before it loads or reads anything of its users'. As root, for real."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.kit.consolescript import install_script
from tests.kit.server import Server, compiled, hasty, needs_root, refusal, with_files
from tests.kit.support import script

pytestmark = needs_root
LOOK = ["sh", "-c", "grep -E '^(Uid|Gid|Groups):' /proc/self/status"]
PASSWD = """root:x:0:0:root:/root:/bin/sh
relay:x:4201:4202:mail:/nonexistent:/bin/false
123:x:4209:4209:a name of digits:/nonexistent:/bin/false
"""
GROUP = """root:x:0:
relay:x:4202:
spool:x:4203:relay,root
tls:x:4204:relay
"""
ACCOUNTS = {  # options -> uid, gid, groups
    "a name": (["-u", "relay"], 4201, 4202, [4202, 4203, 4204]),
    "a number with an entry": (["-u", "4201"], 4201, 4202, [4202]),
    "a number without an entry": (["-u", "4205", "-g", "4206"], 4205, 4206, [4206]),
    "the group is set alone": (["-u", "relay", "-g", "spool"], 4201, 4203, [4203]),
    "the group by number": (["-g", "4203", "-u", "relay"], 4201, 4203, [4203]),
    "group alone": (["-g", "relay"], 0, 4202, [4202]),
    "root, knowingly": (["-u", "0"], 0, 0, [0, 77, 78]),
    "root, and a group": (["-u", "0", "-g", "tls"], 0, 4204, [4204]),
    "nothing asked": ([], 0, 0, [0, 77, 78]),
    "from the environment": (["-U"], 4207, 4208, [4208]),
    "-u after -U": (["-U", "-u", "relay"], 4201, 4208, [4208]),
    "-U after -u and -g": (["-u", "relay", "-g", "tls", "-U"], 4207, 4208, [4208]),
    "the last -u": (["-u", "nosuch", "-u", "relay"], 4201, 4202, [4202, 4203, 4204]),
}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may search; pytest's own ones are private."""
    directory = Path(mkdtemp())
    directory.chmod(0o755)
    yield directory
    subprocess.run(["rm", "-rf", directory], check=True)


@pytest.fixture
def accounts(place: Path) -> list[str]:
    (place / "passwd").write_text(PASSWD)
    (place / "group").write_text(GROUP)
    return with_files({"/etc/passwd": place / "passwd", "/etc/group": place / "group"})


def identity(answer: bytes) -> dict[str, list[int]]:
    return {line.split(":")[0]: [int(word) for word in line.split()[1:]] for line in answer.decode().splitlines()}


@pytest.mark.parametrize("case", ACCOUNTS)
def test_a_program_has_the_account_for_real_effective_and_saved(case: str, accounts: list[str]) -> None:
    options, uid, gid, groups = ACCOUNTS[case]
    words = ["-RHl0", *options, "127.0.0.1", "0", *LOOK]
    with Server(
        words, before=accounts, environ={"UID": "4207", "GID": "4208"}, preexec=lambda: os.setgroups([0, 77, 78])
    ) as server:
        expected = {"Uid": [uid] * 4, "Gid": [gid] * 4, "Groups": groups}
        assert identity(server.ask()) == expected
        assert status(server.pid) == expected  # the server itself has given it up, not just its children


def status(pid: int) -> dict[str, list[int]]:
    wanted = ("Uid:", "Gid:", "Groups:")
    lines = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(wanted)]
    return identity("\n".join(lines).encode())


@pytest.mark.parametrize("options", [["-Bx"], ["--preload", "who"], ["-h"]], ids=["banner", "preloaded", "names"])
def test_every_way_to_launch_has_given_up_root(options: list[str], place: Path, accounts: list[str]) -> None:
    install_script(place, "who", "def main():\n    print(open('/proc/self/status').read())\n")
    program = [str(place / "bin" / "who")] if "--preload" in options else ["cat", "/proc/self/status"]
    words = ["-RHl0", *options, "-u", "relay", "127.0.0.1", "0", *program]
    with Server(words, before=accounts, environ={"PYTHONPATH": str(place)}) as server:
        answer = server.ask()
        assert b"Uid:\t4201\t4201\t4201\t4201\n" in answer
        assert b"Groups:\t4202 4203 4204 \n" in answer


def test_preloaded_code_never_runs_as_root(place: Path, accounts: list[str]) -> None:
    source = (
        "import os\nLOADED_AS = os.getresuid(), os.getresgid(), os.getgroups()\ndef main():\n    print(LOADED_AS)\n"
    )
    install_script(place, "who", source)
    words = ["-RHl0", "--preload", "who", "-u", "relay", "127.0.0.1", "0", str(place / "bin" / "who")]
    with Server(words, before=accounts, environ={"PYTHONPATH": str(place)}) as server:
        assert server.ask() == b"((4201, 4201, 4201), (4202, 4202, 4202), [4202, 4203, 4204])\n"


def test_a_module_that_the_new_user_may_not_read_is_not_loaded(place: Path, accounts: list[str]) -> None:
    install_script(place, "who", "def main():\n    print('loaded')\n")
    (place / "who.py").chmod(0o600)
    server = Server(
        ["-RHl0", "--preload", "who", "-u", "relay", "127.0.0.1", "0", "who"],
        before=accounts,
        environ={"PYTHONPATH": str(place)},
    )
    try:
        assert server.process.wait(20) == 111
        assert server.log().startswith(b"tcpserver: fatal: unable to preload who: ")
    finally:
        server.__exit__()


@pytest.mark.parametrize("options", [[], ["-Bx"]], ids=["parent", "child"])
def test_rules_that_the_new_user_may_not_read_let_nobody_in(
    options: list[str], place: Path, accounts: list[str]
) -> None:
    rules = place / "cdb"
    compiled(rules, ':allow,SEEN="yes"\n')
    rules.chmod(0o600)
    words = ["-vRHl0", *options, "-u", "relay", "-x", str(rules), "127.0.0.1", "0", "env"]
    with Server(words, before=accounts) as server:
        assert server.ask() == (b"x" if options else b"")
        warning = f"tcpserver: warning: dropping connection, unable to read {rules}: access denied\n"
        assert warning.encode() in server.wait_for_log(rb"warning")
        os.chown(rules, 4201, 0)
        assert b"SEEN=yes\n" in server.ask()


def test_a_privileged_port_is_bound_before_root_is_given_up(accounts: list[str]) -> None:
    with Server(["-RHl0", "-u", "relay", "127.0.7.25", "26", *LOOK], before=accounts) as server:
        assert server.port == 26
        assert identity(server.ask(host="127.0.7.25"))["Uid"] == [4201] * 4


@pytest.mark.parametrize(
    ("options", "step"), [(["-u", "1", "-g", "1"], b"gid"), (["-g", "1"], b"gid")], ids=["user and group", "group"]
)
def test_who_is_not_root_cannot_become_another(options: list[str], step: bytes, place: Path) -> None:
    """Started as somebody else, by root's own Python: the interpreter itself must be readable for the test."""
    words = ["-RHl0", *options, "127.0.0.1", "0", "true"]
    dropped = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", script("tcpserver")]
    message, code = refusal([*dropped[1:], *words], dropped[0])
    assert (message, code) == (b"tcpserver: fatal: unable to set " + step + b": permission denied\n", 111)


def test_who_is_not_root_may_ask_to_be_itself(accounts: list[str], place: Path) -> None:
    able = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]  # root's Python must be readable
    itself = ["setpriv", "--reuid", "4201", "--regid", "4201", "--clear-groups", *able]
    with Server(["-RHl0", "-u4201", "-g4201", "127.0.0.1", "0", "id", "-u"], before=itself) as server:
        assert server.ask() == b"4201\n"


def test_a_drain_ends_though_a_session_has_become_somebody_else(place: Path) -> None:
    """Its program has changed its real user: neither TERM nor KILL may be sent to it any more."""
    other = place / "other"
    shutil.copy("/usr/bin/setpriv", other)
    other.chmod(0o4755)
    words = ["-vRHl0", "-u", "4205", "-g", "4206", "--drain", "0", "127.0.0.1", "0", str(other), "--reuid=0", "cat"]
    with Server(words, hasty(place)) as server, server.connect() as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        assert server.stop() == 0
        client.sendall(b"y")
        assert client.recv(1) == b"y"
        assert b"Traceback" not in server.log()


def test_nothing_listens_where_the_account_is_refused() -> None:
    message, code = refusal(["-u", "", "127.0.7.26", "2525", "true"], script("tcpserver"))
    assert (message, code) == (b"tcpserver: fatal: -u needs a user: it is empty\n", 100)
