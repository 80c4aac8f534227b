"""The cases of ucspi-tcp's test suite (rts.tests), written anew: each is run with the C programs and with ours.

The results must be the same. The cases about rules and filters use the input of the programs; the cases about
connections use a server of the same kind.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.kit.peers.listserver import ListServer, Table
from tests.kit.server import PATIENCE, Server, needs_root
from tests.kit.support import free_port, own_address, peer, script

pytestmark = pytest.mark.peer
TOO_LONG = "x" * 64 + "."
SHOW = (
    "for name in PROTO TCPLOCALHOST TCPLOCALIP TCPLOCALPORT TCPREMOTEHOST TCPREMOTEIP TCPREMOTEPORT TCPREMOTEINFO; do"
    " eval echo $name=\\${$name-unset}; done"
)
DOGS = """dog@86.75.30.9:allow,which=/1/
dog@=one.two.three:allow,which=/2/
86.75.30.9:allow,which=/3/
=one.two.three:allow,which=/4/
86.75.30.:allow,which=/5/
86.75.:allow,which=/6/
86.:allow,which=/7/
=.two.three:allow,which=/8/
=.three:allow,which=/9/
=:allow,which=/10/
:allow,which=/11/
"""
CLIENTS = [  # address, host, user, for whom the rules of DOGS are the first ones that match, in their order
    ("86.75.30.9", "one.two.three", "dog"),
    ("86.75.30.10", "one.two.three", "dog"),
    ("86.75.30.9", "one.two.three", "cat"),
    ("86.75.30.10", "one.two.three", "cat"),
    ("86.75.30.10", "four.two.three", "cat"),
    ("86.75.20.10", "four.two.three", ""),
    ("86.85.20.10", "four.two.three", ""),
    ("96.85.20.10", "four.two.three", "cat"),
    ("96.85.20.10", "four.three", ""),
    ("96.85.20.10", "four", ""),
    ("96.85.20.10", "", "dog"),
]
ASK_ALL = "; ".join(
    f"env TCPREMOTEIP={ip}{f' TCPREMOTEHOST={host}' if host else ''}{f' TCPREMOTEINFO={user}' if user else ''}"
    " tcprulescheck t.cdb"
    for ip, host, user in CLIENTS
)
ASK_DELIMITED = "; ".join(
    f"env TCPREMOTEIP={ip} TCPREMOTEINFO={user} tcprulescheck t.cdb"
    for ip, user in (("127.0.0.1", "a"), ("18.23.0.32", "a"), ("127.0.0.1", "b"), ("10.119.75.39", "b"))
)
RULES = {
    "a rule denies": ("1.2.3.4:deny\n", "env TCPREMOTEIP=1.2.3.4 tcprulescheck t.cdb"),
    "a denial is for its host alone": ("1.2.3.4:deny\n:allow\n", "env TCPREMOTEIP=1.2.3.5 tcprulescheck t.cdb"),
    "delimiters": ('a@127.0.0.1:allow,w=/1/\n18.23.0.32:allow,w="2"\n127.:allow,w=+3+\n:allow,w==4=\n', ASK_DELIMITED),
    "ranges and comments": (
        "127.0-5.:allow,a=/b/,c=/d/\n# comment\n",
        "; ".join(f"env TCPREMOTEIP=127.{number}.0.1 tcprulescheck t.cdb" for number in (0, 1, 5, 6, 10)),
    ),
    "names": (
        "=known.edu:allow,w=/k/\n=.abuser.edu:deny\n:allow,w=/any/\n",
        "; ".join(
            f"env TCPREMOTEIP=1.2.3.4 TCPREMOTEHOST={host} tcprulescheck t.cdb"
            for host in ("known.edu", "random.edu", "abuser.edu", "x.abuser.edu", "x.y.abuser.edu")
        ),
    ),
    "the order of the rules": (DOGS, ASK_ALL),
}
ALONE = {  # cases of programs alone. $free is a port on which nobody listens
    "tcpclient without words": "tcpclient 0 0",
    "tcpclient, unknown port": "tcpclient 0 nonexistentport echo wrong",
    "tcpclient, nobody listens": "tcpclient -RHl0 0 0$free echo wrong",
    "tcpclient -q": "tcpclient -qRHl0 0 $free echo wrong",
    "tcpclient, no host": "tcpclient -RHl0 '' $free echo wrong",
    "tcpclient, an address with zeros": "tcpclient -RHl0 127.000.000.001 $free echo wrong",
    "tcpclient, an address in brackets": "tcpclient -RHl0 '[127.000.000.001]' $free echo wrong",
    "tcpserver without words": "tcpserver 0 0",
    "tcpserver, unknown port": "tcpserver 0 nonexistentport echo wrong",
    "tcpserver, an address of another host": "tcpserver 192.0.2.1 $free echo wrong",
    "tcprules without words": "tcprules t.cdb",
    "tcprules, no folder for the temporary file": "echo 1.2.3.4:deny | tcprules t.cdb /dev/nonexistent/tmp",
    "tcprules, no folder for the cdb": "echo 1.2.3.4:deny | tcprules /dev/nonexistent/cdb t.tmp",
    "addcr, nothing": "printf '' | addcr",
    "addcr, no line end": "printf test | addcr",
    "addcr, a line": "echo test | addcr",
    "addcr, lines": "printf 'test\\ntest2\\n' | addcr",
    "addcr, NUL": "printf 't\\0st\\n' | addcr",
    "delcr, nothing": "printf '' | delcr",
    "delcr, a line without CR": "echo test | delcr",
    "delcr, a line": "printf 'test\\r\\n' | delcr",
    "delcr, two CR": "printf 'test\\r\\r\\n' | delcr",
    "delcr, CR at the end": "printf 'test\\r' | delcr",
    "delcr, no line end": "printf test | delcr",
    "delcr, NUL": "printf 't\\0st\\n' | delcr",
    "fixcrio": "printf '\\nhi\\nthere\\r\\n' | fixcrio sh -c 'cat; echo bye' | cat",
    "recordio": "echo test | recordio cat 2>&1 >/dev/null | sed 's/^[0-9]*//' | sort",
    "recordio, lines": "printf 'test\\ntest2\\n' | recordio cat 2>&1 >/dev/null | sed 's/^[0-9]*//' | sort",
    "recordio, no line end": "printf test | recordio cat 2>&1 >/dev/null | sed 's/^[0-9]*//' | sort",
    "argv0": "argv0 sh zero -c 'echo $0'",
    "argv0 without words": "argv0 sh",
}
SMTP_INPUT = "printf 'help\\nquit\\n' | "
LISTED = {
    "not listed": SMTP_INPUT + "env TCPREMOTEIP=127.0.0.1 rblsmtpd -r list.test echo ok",
    "listed": SMTP_INPUT + "env TCPREMOTEIP=127.0.0.2 rblsmtpd -r list.test echo wrong",
    "-b": SMTP_INPUT + "env TCPREMOTEIP=127.0.0.2 rblsmtpd -b -r list.test echo wrong",
    "-t1": "{ sleep 2; } | env TCPREMOTEIP=127.0.0.2 rblsmtpd -cBt1 -r list.test echo wrong",
    "-t0": "env TCPREMOTEIP=127.0.0.2 rblsmtpd -Ct0 -r list.test echo wrong",
    "$RBLSMTPD is empty": SMTP_INPUT + "env TCPREMOTEIP=127.0.0.2 RBLSMTPD= rblsmtpd -r list.test echo ok",
    "$RBLSMTPD": SMTP_INPUT + "env TCPREMOTEIP=127.0.0.2 RBLSMTPD=Error rblsmtpd echo wrong",
    "$RBLSMTPD with -": SMTP_INPUT + "env TCPREMOTEIP=127.0.0.2 RBLSMTPD=-Error rblsmtpd echo wrong",
    "another list": SMTP_INPUT + "env TCPREMOTEIP=127.0.0.2 rblsmtpd -r other.test echo ok",
    "-a": SMTP_INPUT + "env TCPREMOTEIP=127.0.0.2 rblsmtpd -a list.test -r list.test echo ok",
}
CONNECTED = {  # $port is the server's
    "tcpclient, all chosen": "tcpclient -R -H -T 10 -l Local 0 $port sh -c 'cat <&6'",
    "tcpclient -D -i -h -r -t": "tcpclient -Di 127.0.0.1 -RHt1 -l Local 127.0.0.1 $port sh -c 'cat <&6'",
    "the client's variables": f"tcpclient -R -H -l Local 0 $port sh -c '{SHOW}'",
    "tcpclient -v": "tcpclient -v -R -H -l Local 0 $port echo ok",
    "the port is in use": "tcpserver -R -H -l Local 127.0.0.1 $port echo wrong",
    "tcpcat": "tcpcat 0 $port",
    "mconnect": "mconnect 0 $port </dev/null",
}
TABLE: Table = {"2.0.0.127.list.test": {"A": ["127.0.0.2"], "TXT": ["listed, see the list"]}}


class Kind(NamedTuple):
    """One kind of programs, ours or the C programs: their PATH, and a server of this kind that runs SHOW."""

    path: str
    server: Server


@pytest.fixture(scope="module")
def kinds() -> Iterator[list[Kind]]:
    ours, original = script("tcpserver"), peer("/usr/bin/tcpserver")
    words = ["-c2", "-Bbanner", "-vo", "-D", "-R", "-H", "-lLocal", "-b", "2", "127.0.0.1", "0", "sh", "-c", SHOW]
    with Server(words, ours) as first, Server(words, original) as second:
        yield [Kind(os.path.dirname(ours) + ":/usr/bin:/bin", first), Kind("/usr/bin:/bin", second)]


def result_of(command: str, kind: Kind, folder: Path, free: int, names: str = "127.0.0.1") -> tuple[str, int]:
    """Run a case with one kind of programs. Return the output without pids and ports, and the exit code."""
    environ = {"PATH": kind.path, "LC_ALL": "C", "DNSCACHEIP": names, "port": str(kind.server.port), "free": str(free)}
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
    )
    text = done.stdout.decode("latin-1").replace(str(kind.server.port), "SERVER")
    return re.sub(r"(TCP(?:LOCAL|REMOTE)PORT=)\d+", r"\1PORT", re.sub(r"pid \d+", "pid PID", text)), done.returncode


@pytest.mark.parametrize("case", ALONE)
def test_the_programs_alone_give_the_same_results(case: str, kinds: list[Kind], tmp_path: Path) -> None:
    ours, original = (result_of(ALONE[case], kind, tmp_path, free_port()) for kind in kinds)
    assert re.sub(r"port \d+", "port P", ours[0]) == re.sub(r"port \d+", "port P", original[0])
    assert ours[1] == original[1]


@pytest.mark.parametrize("name", ["nonexistent.invalid.", TOO_LONG], ids=["unknown", "too long"])
@pytest.mark.parametrize("program", ["tcpclient", "tcpserver"])
def test_an_unknown_host_gives_111(program: str, name: str, kinds: list[Kind], tmp_path: Path) -> None:
    """Whether that is `temporarily` so depends on the resolver."""
    for kind in kinds[
        : 1 if "invalid" in name else 2
    ]:  # the original asks a name server, for a minute if there is none
        text, code = result_of(f"{program} {name} 16 echo wrong", kind, tmp_path, 0)
        assert code == 111
        assert re.search(rf"^{program}: fatal: (temporarily unable to figure out|no) IP address for {name}", text)


@pytest.mark.parametrize("case", RULES)
def test_rules_give_the_same_results(case: str, kinds: list[Kind], tmp_path: Path) -> None:
    rules, command = RULES[case]
    (tmp_path / "rules").write_text(rules)
    command = f"tcprules t.cdb t.tmp <rules 2>/dev/null; echo $?; {command}"  # our warnings are beside the answer
    ours, original = (result_of(command, kind, tmp_path, 0) for kind in kinds)
    assert ours == original
    assert ours[0].startswith("0\nrule ")
    if case == "the order of the rules":
        assert re.findall(r"which=(\d+)", ours[0]) == [str(number) for number in range(1, 12)]


@pytest.mark.parametrize("case", CONNECTED)
def test_connections_give_the_same_results(case: str, kinds: list[Kind], tmp_path: Path) -> None:
    ours, original = (result_of(CONNECTED[case], kind, tmp_path, 0) for kind in kinds)
    assert ours == original
    assert "banner" in ours[0] or "ok" in ours[0] or "in use" in case or "variables" in case


def test_the_servers_log_is_the_same(kinds: list[Kind], tmp_path: Path) -> None:
    for kind in kinds:
        seen = kind.server.log().count(b"tcpserver: end")
        result_of("tcpcat 0 $port", kind, tmp_path, 0)
        kind.server.wait_for_log(rb"^tcpserver: end", seen + 1)
    ours, original = (re.sub(rb"\d+", b"N", kind.server.log()[:200]).splitlines()[0] for kind in kinds)
    assert ours == original == b"tcpserver: status: N/N"


@needs_root
@pytest.mark.parametrize("case", LISTED)
def test_block_lists_give_the_same_results(case: str, kinds: list[Kind], tmp_path: Path) -> None:
    with ListServer(own_address(2), TABLE) as names:
        ours, original = (result_of(LISTED[case], kind, tmp_path, 0, names.host) for kind in kinds)
    assert ours == original
    assert "wrong" not in ours[0]
