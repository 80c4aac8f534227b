"""Names and ident: -h -p -l -r -t and the deadline over all, with a name server and an ident server of our own."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpserver.child import ident, names
from tests.kit.consolescript import install_script
from tests.kit.server import PATIENCE, Server, compiled, needs_root, read_all, with_files
from tests.kit.support import ROOT, own_address, peer, script

C = "/usr/bin/tcpserver"
NAME_SERVER, SILENT, IDENT_SERVER = map(own_address, range(3))  # each has a fixed port: 53 or 113

HOSTS = {  # source -> the name in its PTR record, and the addresses of that name
    "127.0.1.1": ("Good.Example", ["127.0.1.1"]),
    "127.0.1.2": ("liar.example", ["127.0.9.9"]),
    "127.0.1.3": ("127.0.1.3", ["127.0.1.3"]),
    "127.0.1.5": ("0x7f000105", ["127.0.1.5"]),
    "127.0.1.6": ("2130706694", []),
    "127.0.1.7": ("many.example", ["127.0.9.1", "127.0.1.7", "127.0.9.2"]),
    "127.0.1.8": ("nowhere.example", []),
    "127.0.1.9": ("a_b-c.example", ["127.0.1.9"]),
}
NAMED = {  # source -> the name with -h, with -p
    "127.0.1.1": ("good.example", "good.example"),
    "127.0.1.2": ("liar.example", None),
    "127.0.1.4": (None, None),
    "127.0.1.7": ("many.example", "many.example"),
    "127.0.1.8": ("nowhere.example", None),
    "127.0.1.9": ("a_b-c.example", "a_b-c.example"),
}
NUMBERS = ["127.0.1.3", "127.0.1.5", "127.0.1.6"]  # 0.88 takes these for names, and with -p believes them


def zone() -> dict[str, list[str]]:
    table = {"1.0.0.127.in-addr.arpa": ["PTR", "local.example"]}
    for address, (name, addresses) in HOSTS.items():
        table[".".join(reversed(address.split("."))) + ".in-addr.arpa"] = ["PTR", name]
        table[name.lower()] = ["A", *addresses]
    return table


@pytest.fixture(scope="module")
def name_servers() -> Iterator[None]:
    tables = {NAME_SERVER: zone(), SILENT: {}}
    running = [
        subprocess.Popen(
            [sys.executable, ROOT / "tests/kit/peers/nameserver.py", address, json.dumps(table)], stdout=subprocess.PIPE
        )
        for address, table in tables.items()
    ]
    for process in running:
        assert process.stdout
        assert process.stdout.readline() == b"listening\n"
    yield
    for process in running:
        process.kill()
        process.communicate()


def resolving(directory: Path, server: str, hosts: str = "") -> list[str]:
    """Words before a program that give it a resolver with this server, a long timeout, and these hosts."""
    (directory / "hosts").write_text(hosts)
    (directory / "resolv.conf").write_text(f"nameserver {server}\noptions timeout:30 attempts:5\n")
    (directory / "nsswitch.conf").write_text("hosts: files dns\n")
    return with_files({f"/etc/{name}": directory / name for name in ("hosts", "resolv.conf", "nsswitch.conf")})


def variable(answer: bytes, name: str) -> str | None:
    found = re.findall(rf"(?m)^{name}=(.*)$", answer.decode())
    return found[0] if found else None


@needs_root
@pytest.mark.parametrize("program", ["ours", pytest.param("C", marks=pytest.mark.peer)])
@pytest.mark.parametrize(("option", "column"), [("-h", 0), ("-p", 1)], ids=["-h", "-p"])
def test_a_client_has_the_name_that_the_resolver_gives(
    name_servers: None, tmp_path: Path, program: str, option: str, column: int
) -> None:
    environ = {"DNSCACHEIP": NAME_SERVER}  # 0.88 asks for itself
    tcpserver = script("tcpserver") if program == "ours" else peer(C)
    words = ["-vRl0", option, "127.0.0.1", "0", "env"]
    with Server(words, tcpserver, before=resolving(tmp_path, NAME_SERVER), environ=environ) as server:
        for source, named in NAMED.items():
            assert variable(server.ask(source=source), "TCPREMOTEHOST") == named[column], source
            line = f" {named[column] or ''}:{source}::"
            assert line in server.wait_for_log(rb"^tcpserver: ok .*:%s:" % re.escape(source.encode())).decode()


@needs_root
@pytest.mark.parametrize("option", ["-h", "-p"])
def test_a_name_that_is_a_number_is_none(name_servers: None, tmp_path: Path, option: str) -> None:
    words = ["-Rl0", option, "127.0.0.1", "0", "env"]
    with Server(words, before=resolving(tmp_path, NAME_SERVER)) as server:
        for source in NUMBERS:
            assert variable(server.ask(source=source), "TCPREMOTEHOST") is None, source


@needs_root
def test_the_local_name_is_asked_without_l_and_not_with_it(name_servers: None, tmp_path: Path) -> None:
    for options, name in (([], "local.example"), (["-lmine"], "mine"), (["-l", ""], "")):
        words = ["-vRH", *options, "127.0.0.1", "0", "env"]
        with Server(words, before=resolving(tmp_path, NAME_SERVER)) as server:
            assert variable(server.ask(), "TCPLOCALHOST") == name
            assert f"tcpserver: ok PID {name}:127.0.0.1:".encode() in re.sub(rb"ok \d+", b"ok PID", server.log())


@needs_root
def test_etc_hosts_counts(name_servers: None, tmp_path: Path) -> None:
    hosts = "127.0.1.1 From.Hosts alias.hosts\n"
    with Server(["-Rl0", "-p", "127.0.0.1", "0", "env"], before=resolving(tmp_path, SILENT, hosts)) as server:
        assert variable(server.ask(source="127.0.1.1"), "TCPREMOTEHOST") == "from.hosts"


@needs_root
def test_rules_by_name_follow_the_name(name_servers: None, tmp_path: Path) -> None:
    rules = '=good.example:allow,RULE="host"\n=.example:allow,RULE="domain"\n=:allow,RULE="named"\n:allow,RULE="none"\n'
    compiled(tmp_path / "cdb", rules)
    expected = {"127.0.1.1": "host", "127.0.1.7": "domain", "127.0.1.2": "none", "127.0.1.4": "none"}
    words = ["-Rl0", "-p", "-x", str(tmp_path / "cdb"), "127.0.0.1", "0", "env"]
    with Server(words, before=resolving(tmp_path, NAME_SERVER)) as server:
        for source, rule in expected.items():
            assert variable(server.ask(source=source), "RULE") == rule


@needs_root
@pytest.mark.parametrize("options", [["-h", "-l0"], ["-H"], ["-p"]], ids=" ".join)
def test_a_client_whose_resolver_hangs_is_served_without_a_name(
    name_servers: None, tmp_path: Path, options: list[str]
) -> None:
    words = ["-vR", *options, "--prepare-timeout", "1", "127.0.0.1", "0", "env"]
    with Server(words, before=resolving(tmp_path, SILENT)) as server:
        clients = [server.connect() for _ in range(5)]
        for client in clients:  # all at once: none waits for another
            answer = read_all(client)
            assert variable(answer, "TCPREMOTEIP") == "127.0.0.1"
            assert variable(answer, "TCPREMOTEHOST") is None
            client.close()
        server.wait_for_log(rb"^tcpserver: end \d+ status 0$", 5)


@needs_root
def test_a_preloaded_program_is_served_too_when_the_resolver_hangs(name_servers: None, tmp_path: Path) -> None:
    install_script(tmp_path, "late", "def main():\n    print(open('/proc/self/status').read())\n")
    words = ["-vRhl0", "--prepare-timeout", "1", "--preload", "late", "127.0.0.1", "0", str(tmp_path / "bin" / "late")]
    with Server(words, before=resolving(tmp_path, SILENT), environ={"PYTHONPATH": str(tmp_path)}) as server:
        assert b"\nThreads:\t1\n" in server.ask()  # no thread is left in the resolver


@needs_root
def test_a_child_that_waits_for_a_name_can_be_ended(name_servers: None, tmp_path: Path) -> None:
    words = ["-vRhl0", "127.0.0.1", "0", "env"]
    with Server(words, before=resolving(tmp_path, SILENT)) as server, server.connect() as client:
        pid = int(re.findall(rb"pid (\d+) from", server.wait_for_log(rb"^tcpserver: pid"))[0])
        os.kill(pid, 15)
        assert read_all(client) == b""
        server.wait_for_log(rb"^tcpserver: end %d status" % pid)


@needs_root
def test_the_parent_never_waits_for_a_name(name_servers: None, tmp_path: Path) -> None:
    """Neither at the start nor while children do: it still answers SIGTERM."""
    with Server(["-vRhl0", "127.0.0.1", "0", "env"], before=resolving(tmp_path, SILENT)) as server:
        server.wait_for_log(rb"^tcpserver: status: 0/40$")
        with server.connect(), server.connect():
            server.wait_for_log(rb"^tcpserver: pid", 2)
            assert server.stop() == 0


# -- ident

REPLIES: dict[str, tuple[bytes, bytes | None]] = {  # an ident server's reply about <R> and <L>, the ports -> the user
    "a user": (b"<R> , <L> : USERID : UNIX : joe\r\n", b"joe"),
    "without blanks": (b"<R>,<L>:USERID:UNIX:joe\n", b"joe"),
    "small letters": (b"<R> , <L> : userid : unix : joe\r\n", b"joe"),
    "blanks in the user": (b"<R>, <L> : USERID : UNIX : joe\tthe smith \r\n", b"joethesmith"),
    "control bytes": (b"<R>, <L> : USERID : UNIX : j\x01o\x1b[1me\x7f\x00\r\n", b"jo[1me"),
    "colons and more": (b"<R>, <L> : USERID : OTHER,UTF-8 : a:b@c=d%\r\n", b"a:b@c=d%"),
    "high bytes": (b"<R>, <L> : USERID : UNIX : \xff\xc3\xa9\r\n", b"\xff\xc3\xa9"),
    "an empty user": (b"<R>, <L> : USERID : UNIX : \r\n", b""),
    "300 bytes": (b"<R>, <L> : USERID : UNIX : " + b"x" * 300 + b"\r\n", b"x" * 257),
    "the wrong pair": (b"1 , <L> : USERID : UNIX : joe\r\n", None),
    "the pair the other way round": (b"<L> , <R> : USERID : UNIX : joe\r\n", None),
    "an error": (b"<R> , <L> : ERROR : NO-USER\r\n", None),
    "an error with a user": (b"<R> , <L> : ERROR : X : joe\r\n", None),
    "no user at all": (b"<R> , <L> : USERID : UNIX\r\n", None),
    "an empty line": (b"\r\n", None),
    "no line end": (b"<R> , <L> : USERID : UNIX : joe", None),
    "nothing": (b"", None),
    "an endless line": (b"<R> , <L> : USERID : UNIX : " + b"x" * 5000, None),
    "a second line": (b"\n<R> , <L> : USERID : UNIX : joe\r\n", None),
    "more after the line": (b"<R> , <L> : USERID : UNIX : joe\r\n<R> , <L> : USERID : UNIX : ann\r\n", b"joe"),
}


@pytest.fixture(scope="module")
def ident_server() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((IDENT_SERVER, 113))
        listener.listen(8)
        listener.settimeout(PATIENCE)
        yield listener


@pytest.fixture(scope="module")
def asking() -> Iterator[Server]:
    with Server(["-vrHl0", "127.0.0.1", "0", "env"]) as server:
        yield server


@needs_root
@pytest.mark.parametrize("case", REPLIES)
def test_ident_is_believed_about_our_ports_alone(asking: Server, ident_server: socket.socket, case: str) -> None:
    reply, user = REPLIES[case]
    with asking.connect(source=IDENT_SERVER) as client:
        remote, local = client.getsockname()[1], asking.port
        talk, _ = ident_server.accept()
        with talk:
            assert talk.recv(100) == b"%d , %d\r\n" % (remote, local)
            talk.sendall(reply.replace(b"<R>", b"%d" % remote).replace(b"<L>", b"%d" % local))
        answer = read_all(client)
    found = re.findall(rb"(?m)^TCPREMOTEINFO=(.*)$", answer)
    assert found == ([] if user is None else [user])


@needs_root
@pytest.mark.peer
def test_the_log_line_of_a_user_is_the_originals(ident_server: socket.socket) -> None:
    lines = []
    for program in (script("tcpserver"), peer(C)):
        with Server(["-vrHl0", "127.0.0.1", "0", "true"], program) as server:
            with server.connect(source=IDENT_SERVER) as client:
                talk, _ = ident_server.accept()
                with talk:
                    ports = talk.recv(100).strip()
                    talk.sendall(ports + b" : USERID : UNIX : a:b%\xff" + b"x" * 150 + b"\r\n")
                read_all(client)
            found = re.findall(rb"(?m)^tcpserver: ok \d+ (.*)$", server.wait_for_log(rb"^tcpserver: ok"))
            lines.append(re.sub(rb":\d+( |$)", b"N", found[0]))
    assert lines[0] == lines[1]
    assert lines[0].count(b"x" * 90) == 1


@needs_root
def test_an_ident_server_that_drips_is_given_t_seconds(ident_server: socket.socket) -> None:
    with Server(["-rHl0", "-t1", "127.0.0.1", "0", "env"]) as server, server.connect(source=IDENT_SERVER) as client:
        talk, _ = ident_server.accept()
        with talk:
            talk.sendall(talk.recv(100)[:1])
            assert b"TCPREMOTEINFO" not in read_all(client)


@needs_root
def test_ident_is_cut_by_the_deadline_over_all(ident_server: socket.socket) -> None:
    words = ["-rHl0", "-t600", "--prepare-timeout", "1", "127.0.0.1", "0", "env"]
    with Server(words) as server, server.connect(source=IDENT_SERVER) as client:
        talk, _ = ident_server.accept()
        with talk:
            assert b"TCPREMOTEIP=" + IDENT_SERVER.encode() + b"\n" in read_all(client)


@needs_root
@pytest.mark.parametrize("options", [[], ["-rR"], ["-rt0"]], ids=["unasked", "-rR", "-t0"])
def test_ident_is_not_asked_with_these_options(ident_server: socket.socket, options: list[str]) -> None:
    with Server([*options, "-Hl0", "127.0.0.1", "0", "env"], environ={"TCPREMOTEINFO": "inherited"}) as server:
        assert b"TCPREMOTEINFO" not in server.ask(source=IDENT_SERVER)
        ident_server.setblocking(False)
        try:
            with pytest.raises(BlockingIOError):
                ident_server.accept()
        finally:
            ident_server.settimeout(PATIENCE)


def test_nobody_at_port_113_is_no_user() -> None:
    with Server(["-rHl0", "127.0.0.1", "0", "env"]) as server:
        assert b"TCPREMOTEINFO" not in server.ask(source="127.0.2.9")


# -- the pure parts

CLEAN: dict[bytes, bytes | None] = {
    b"Host.Example.": b"host.example",
    b"a_b-c.example": b"a_b-c.example",
    b"a b=c": b"a\\040b\\075c",
    b"a\\b": b"a\\134b",
    b"\xc3\xa9.example": b"\\303\\251.example",
    b"a%b:c\n": b"a\\045b\\072c\\012",
    b"": None,
    b".": None,
    b"127.0.0.1": None,
    b"127": None,
    b"1.2.3.4.5": None,
    b"0x7f000001": None,
    b"0x7f.1": None,
    b"0177.0.0.1": None,
    b"1.2.3.4.example": b"1.2.3.4.example",
    b"0x7f.example": b"0x7f.example",
    b"x" * 255: b"x" * 255,
    b"x" * 256: None,
}


@pytest.mark.parametrize("name", CLEAN)
def test_a_name_is_safe_in_an_environment_and_as_a_key(name: bytes) -> None:
    assert names.clean(name) == CLEAN[name]


@pytest.mark.parametrize("case", REPLIES)
def test_the_user_of_a_reply(case: str) -> None:
    reply, user = REPLIES[case]
    text = reply.replace(b"<R>", b"1000").replace(b"<L>", b"25")
    assert ident.user(text[: ident.LONGEST_REPLY], 1000, 25) == user
