"""rblsmtpd with a name server of the tests: decisions, replies, log, failures; and the same as the C original."""

import errno
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from tcpserver.tools.blocklists import exchange
from tcpserver.tools.blocklists.answers import TYPE_A
from tests.kit.mailhome import make_home
from tests.kit.pairs import ENVIRON, PATH, Outcome, both, run
from tests.kit.peers.listserver import BROKEN, GARBLED, REFUSED, SILENT, ListServer, Table
from tests.kit.server import PATIENCE, Server, needs_root, read_all
from tests.kit.support import own_address, script

TALK = b"HELO x\r\nmail from:<>\r\nRCPT TO:<a@b>\r\nfoo\r\n\nquit\r\nnoop\r\n"
NIBBLES = "7.0.0.0." + "0." * 20 + "8.b.d.0.1.0.0.2"
TABLE: Table = {
    "2.2.0.192.list.test": {"A": ["127.0.0.2"], "TXT": ["192.0.2.2 is listed\x01\xff"]},
    "3.2.0.192.list.test": {"TXT": ["by its text alone ", "twice"]},
    "4.2.0.192.list.test": {"A": ["127.0.0.4"]},
    "5.2.0.192.list.test": {"A": ["127.255.255.254"], "TXT": ["error: open resolver"]},
    "6.2.0.192.list.test": {"A": ["127.0.0.2"], "TXT": ["x" * 700]},
    "7.2.0.192.list.test": REFUSED,
    "8.2.0.192.list.test": SILENT,
    "9.2.0.192.list.test": {"A": ["127.0.0.2"], "TXT": ["you are %IP% of %IP%"]},
    "10.2.0.192.list.test": {"A": ["198.51.100.1"], "TXT": ["the zone is gone"]},
    "11.2.0.192.list.test": {"A": ["127.0.0.2"], "TXT": SILENT},
    "12.2.0.192.list.test": GARBLED,
    "13.2.0.192.list.test": BROKEN,
    "2.2.0.192.allow.test": {"A": ["127.0.0.1"]},
    "7.2.0.192.allow.test": REFUSED,
    "2.2.0.192.other.test": {"A": ["127.0.0.2"], "TXT": ["other"]},
    f"{NIBBLES}.list.test": {"A": ["127.0.0.2"], "TXT": ["six"]},
}
R, A = ["-r", "list.test"], ["-a", "allow.test"]


@pytest.fixture(scope="module")
def names() -> Iterator[ListServer]:
    with ListServer(own_address(2), TABLE) as server:
        yield server


def environ(client: str, names: ListServer | None = None, **more: str) -> dict[str, str]:
    return {"TCPREMOTEIP": client, "DNSCACHEIP": names.host if names else "127.0.0.1"} | more


def rblsmtpd(words: list[str], client: str, names: ListServer, **more: str) -> Outcome:
    return masked(run(script("rblsmtpd"), [*words, "echo", "accepted"], TALK, environ(client, names, **more)))


def masked(outcome: Outcome) -> Outcome:
    return outcome._replace(stderr=re.sub(rb"pid \d+", b"pid PID", outcome.stderr))


def refusal(line: str, client: str) -> Outcome:
    """What a refused client and the log get."""
    ok, reply = b"250 rblsmtpd.local\r\n", line.encode() + b"\r\n"
    talk = b"220 rblsmtpd.local\r\n" + 2 * ok + 3 * reply + b"221 rblsmtpd.local\r\n"
    return Outcome(talk, f"rblsmtpd: {client} pid PID: {line}\n".encode(), 0)


ACCEPTED = Outcome(b"accepted\n", b"", 0)


@pytest.mark.peer
@pytest.mark.parametrize(
    ("words", "variable"),
    [
        ([], None),
        ([], ""),
        ([], "go away"),
        ([], "-go away"),
        ([], "-"),
        (["-b"], "go away \x01\u00e9\n"),
        ([], "x" * 300),
        (["-t0"], "go away"),
        (["-t", "0"], "-go away"),
        (["-bBcCr", "list.test"], ""),
    ],
)
def test_the_variable_decides_as_with_the_original(words: list[str], variable: str | None) -> None:
    more = {} if variable is None else {"RBLSMTPD": variable}
    pair = both("rblsmtpd", [*words, "echo", "accepted"], TALK, {"TCPREMOTEIP": "192.0.2.1", **more})
    assert masked(pair[0]) == masked(pair[1])


@pytest.mark.peer
@pytest.mark.parametrize(
    "words", [[], ["-b"], ["-z"], ["-r"], ["-t"], ["-R", "true"], ["no/such"], ["sh", "-c", "exit 7"], ["--", "/"]]
)
def test_words_and_exit_codes_are_the_originals(words: list[str]) -> None:
    pair = both("rblsmtpd", words, TALK, {"TCPREMOTEIP": "192.0.2.1"})
    assert pair[0] == pair[1]


@needs_root
@pytest.mark.peer
@pytest.mark.parametrize("client", ["192.0.2.1", "192.0.2.2", "192.0.2.3"])
@pytest.mark.parametrize(
    "words",
    [
        R,
        ["-b", *R],
        [*R, "-b"],
        ["-cr", "list.test"],
        ["-t0", *R],
        [*A, *R],
        [*R, *A],
        ["-r", "other.test", *R],
        [*R, "-b", "-r", "other.test"],
    ],
    ids=" ".join,
)
def test_lists_decide_as_with_the_original(names: ListServer, words: list[str], client: str) -> None:
    pair = both("rblsmtpd", [*words, "echo", "accepted"], TALK, environ(client, names))
    assert masked(pair[0]) == masked(pair[1])


@needs_root
def test_a_client_is_listed_by_an_address_alone(names: ListServer) -> None:
    assert rblsmtpd(R, "192.0.2.4", names) == refusal("451 192.0.2.4 is listed by list.test", "192.0.2.4")
    assert rblsmtpd(["-b", *R], "192.0.2.4", names) == refusal("553 192.0.2.4 is listed by list.test", "192.0.2.4")
    assert rblsmtpd(["-r", "list.test=127.0.0.[2..3]"], "192.0.2.4", names) == ACCEPTED
    assert rblsmtpd(["-r", "list.test=127.0.0.[2;4]"], "192.0.2.4", names).stdout.startswith(b"220 rblsmtpd.local")


@needs_root
def test_with_a_pattern_a_text_alone_lists_nobody(names: ListServer) -> None:
    assert rblsmtpd(["-r", "list.test=127.0.0.2"], "192.0.2.3", names) == ACCEPTED


@needs_root
def test_an_ipv6_client_is_asked_for_by_its_nibbles(names: ListServer) -> None:
    assert rblsmtpd(R, "2001:db8::7", names) == refusal("451 six", "2001:db8::7")
    assert rblsmtpd(R, "2001:db8::8", names) == ACCEPTED


@needs_root
@pytest.mark.parametrize(("client", "answer"), [("192.0.2.5", b"127.255.255.254"), ("192.0.2.10", b"198.51.100.1")])
@pytest.mark.parametrize("words", [R, ["-bc", *R], ["-a", "list.test", "-r", "other.test"]], ids=" ".join)
def test_an_answer_that_is_no_listing_counts_neither_way(
    names: ListServer, words: list[str], client: str, answer: bytes
) -> None:
    found = rblsmtpd(words, client, names)
    assert found.stdout == b"accepted\n"
    assert found.stderr.startswith(b"rblsmtpd: warning: list.test answers %s, which lists nobody" % answer)
    assert found.stderr.count(b"\n") == 1


@needs_root
def test_the_text_names_the_client_and_is_cut_at_200_bytes(names: ListServer) -> None:
    assert rblsmtpd(R, "192.0.2.9", names) == refusal("451 you are 192.0.2.9 of 192.0.2.9", "192.0.2.9")
    assert rblsmtpd(R, "192.0.2.6", names) == refusal("451 " + "x" * 200, "192.0.2.6")  # truncated by UDP, whole by TCP


@needs_root
@pytest.mark.parametrize("client", ["192.0.2.7", "192.0.2.8", "192.0.2.12", "192.0.2.13"])
def test_no_answer_counts_as_none_or_with_c_as_a_temporary_failure(names: ListServer, client: str) -> None:
    silent = f"rblsmtpd: {client} pid PID: no answer from list.test\n".encode()
    assert rblsmtpd(["-T1", *R], client, names) == ACCEPTED._replace(stderr=silent)
    closed = refusal("451 temporary RBL lookup error", client)
    assert rblsmtpd(["-T1", "-bc", *R], client, names) == closed._replace(stderr=silent + closed.stderr)
    allowed = rblsmtpd(["-T1", "-a", "list.test", "-c", "-r", "list.test"], client, names)
    assert allowed == ACCEPTED._replace(stderr=silent)  # as rblsmtpd.c: without -c a silent allow list allows
    answered = rblsmtpd(["-T4", "-ca", "list.test", "-r", "other.test"], client, names)
    assert answered == ACCEPTED._replace(stderr=silent)  # other.test has as long to answer


@needs_root
def test_a_failure_before_makes_a_listing_temporary(names: ListServer) -> None:
    found = rblsmtpd(["-bcT1", "-a", "allow.test", "-r", "list.test"], "192.0.2.7", names)
    assert b"451 temporary RBL lookup error\r\n" in found.stdout


@needs_root
def test_a_listing_whose_text_does_not_come_stays_a_listing(names: ListServer) -> None:
    assert rblsmtpd(["-T3", *R], "192.0.2.11", names) == refusal("451 192.0.2.11 is listed by list.test", "192.0.2.11")


@needs_root
def test_all_lists_are_asked_at_once_each_from_a_port_of_its_own() -> None:
    many = [word for number in range(20) for word in ("-r", f"list{number}.test")]
    with ListServer(own_address(1), {f"1.2.0.192.list{number}.test": SILENT for number in range(20)}) as server:
        found = rblsmtpd(["-T1", *many], "192.0.2.1", server)
    assert found.stdout == b"accepted\n"
    assert found.stderr.count(b"no answer from") == 20  # in one second for all
    assert len(set(server.ports)) >= 15  # 20 random ports of 28,000


@needs_root
@pytest.mark.parametrize("first", [REFUSED, SILENT])
def test_the_next_name_server_is_asked(names: ListServer, first: str) -> None:
    with ListServer(own_address(1), {"2.2.0.192.list.test": first}) as server:
        found = rblsmtpd(R, "192.0.2.2", names, DNSCACHEIP=f"{server.host}.{names.host}")
    assert b"451 192.0.2.2 is listed??\r\n" in found.stdout


@needs_root
@pytest.mark.parametrize("first", [None, REFUSED, BROKEN, GARBLED])
def test_a_name_server_that_fails_again_leaves_the_other_its_time(first: str | None) -> None:
    """The second server answers in the second round, in which the first one would fail again."""
    dead, name = own_address(1), "2.2.0.192.list.test"
    failing = ListServer(dead, {name: first}) if first else nullcontext()
    with ListServer(own_address(0), TABLE, lost=1) as slow, failing as other:
        found = rblsmtpd(R, "192.0.2.2", slow, DNSCACHEIP=f"{dead}.{slow.host}")
    assert b"451 192.0.2.2 is listed??\r\n" in found.stdout
    assert not other or other.asked == [(name, "A"), (name, "TXT")]


@needs_root
@pytest.mark.parametrize(
    ("words", "lacking"),
    [
        (R, "list.test"),
        (["-b", *R], "list.test"),
        (["-a", "list.test"], "list.test"),
        ([*A, *R], "allow.test"),
    ],
)
def test_a_list_that_cannot_be_asked_for_want_of_descriptors_is_not_one_without_an_answer(
    names: ListServer, words: list[str], lacking: str
) -> None:
    """The questions to two other lists have the last descriptors. Python itself needs two at its start."""
    limit = ["--nofile=5:5", script("rblsmtpd"), "-r", "other.test", "-r", "third.test"]
    found = masked(run("prlimit", [*limit, *words, "echo", "accepted"], TALK, environ("192.0.2.4", names)))
    first, *others = found.stderr.decode().splitlines()
    assert first == f"rblsmtpd: 192.0.2.4 pid PID: unable to ask {lacking}: process cannot open more files"
    if "-r" in words:
        assert b"451 temporary RBL lookup error\r\n" in found.stdout
        assert others[-1] == "rblsmtpd: 192.0.2.4 pid PID: 451 temporary RBL lookup error"
    else:
        assert found.stdout == b"accepted\n"  # nobody refuses the client


@needs_root
@pytest.mark.parametrize("client", ["192.0.2.2", "192.0.2.6"], ids=["by UDP", "by TCP"])
def test_the_last_descriptor_is_enough_for_an_answer(names: ListServer, client: str) -> None:
    words = ["--nofile=5:5", script("rblsmtpd"), "-r", "other.test", *R, "echo", "accepted"]
    assert b"451 temporary" not in run("prlimit", words, TALK, environ(client, names)).stdout


def test_a_question_that_cannot_be_repeated_may_still_be_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_socket(*_: object) -> None:
        raise OSError(errno.EMFILE, "none is left")

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE)
        monkeypatch.setattr(exchange, "PORT", server.getsockname()[1])
        asking = exchange.Exchange("2.2.0.192.list.test", TYPE_A, ["127.0.0.1"], 0)
        none_left = SimpleNamespace(socket=no_socket, AF_INET=socket.AF_INET, SOCK_DGRAM=0, SOCK_NONBLOCK=0)
        monkeypatch.setattr(exchange, "socket", none_left)
        asking.send(1)
        assert not asking.is_over
        query, client = server.recvfrom(512)
        server.sendto(query[:2] + b"\x81\x83" + query[4:], client)  # no such name
        [(descriptor, _)] = asking.interests()
        asking.proceed(descriptor, 1.5)
    assert asking.answer
    assert not asking.answer.exists


def test_without_a_descriptor_for_the_name_servers_a_client_is_refused() -> None:
    code = (
        "import resource, sys; from tcpserver.tools import rblsmtpd\n"
        "rblsmtpd.before_fork({}); sys.argv[1:] = ['-r', 'list.test', 'true']\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); rblsmtpd.main()\n"
    )
    found = masked(run(sys.executable, ["-c", code], TALK, {"TCPREMOTEIP": "192.0.2.1"}))
    line = b"rblsmtpd: 192.0.2.1 pid PID: unable to read /etc/resolv.conf: process cannot open more files\n"
    assert b"451 temporary RBL lookup error\r\n" in found.stdout
    assert found.stderr.startswith(line)


def test_without_name_servers_a_list_has_no_answer() -> None:
    words = [script("rblsmtpd"), "-T1", "-c", *R, "true"]
    done = subprocess.run(words, env=ENVIRON | environ("192.0.2.1"), input=TALK, capture_output=True, timeout=PATIENCE)
    assert b"451 temporary RBL lookup error\r\n" in done.stdout


@pytest.mark.parametrize("client", ["", "x", "1.2.3"])
def test_a_client_without_an_address_is_on_no_list_or_with_c_refused(client: str) -> None:
    words = ["echo", "accepted"]
    found = run(script("rblsmtpd"), [*R, *words], TALK, environ(client))
    warning = b"rblsmtpd: warning: TCPREMOTEIP is no address, no list is asked\n"
    assert found == (b"accepted\n", warning, 0)
    found = run(script("rblsmtpd"), ["-c", *R, *words], TALK, environ(client))
    assert b"451 temporary RBL lookup error\r\n" in found.stdout


def test_without_dnspython_lists_are_refused_and_the_rest_works() -> None:
    start = "import sys; sys.modules['dns'] = None; from tcpserver.tools import rblsmtpd; rblsmtpd.main()"
    words = [sys.executable, "-c", start]
    hint = f"rblsmtpd: fatal: -r and -a need dnspython: {sys.executable} -m pip install dnspython\n".encode()
    for more, expected in ((R, hint), ([], b"")):
        done = subprocess.run(
            [*words, *more, "echo", "accepted"],
            env=ENVIRON | environ("192.0.2.1"),
            capture_output=True,
            timeout=PATIENCE,
        )
        assert (done.stderr, done.returncode) == (expected, 111 if more else 0)
        assert done.stdout == (b"" if more else b"accepted\n")


@pytest.mark.parametrize(
    "words", [["-r", "a b"], ["-a", "list.test=1.2.3"], ["-t", "x"], ["-w", "-1"], ["-W", "99999"], ["-T", "1s"]]
)
def test_options_that_make_no_sense_are_refused(words: list[str]) -> None:
    found = run(script("rblsmtpd"), [*words, "echo", "accepted"], TALK, environ("192.0.2.1"))
    assert found.exit == 100
    assert found.stdout == b""
    assert found.stderr.startswith(f"rblsmtpd: fatal: {words[0]} needs a ".encode())
    assert found.stderr.count(b"\n") == 1


# -- on a connection

CHAINS = {"executed": ["--exec"], "loaded": ["--reuse", "1"], "reused": []}
ECHO = ["sh", "-c", "head -1"]


@pytest.mark.parametrize("way", CHAINS)
def test_no_byte_of_the_client_is_lost_on_the_way_to_the_program(way: str) -> None:
    with Server(["-RHl0", *CHAINS[way], "127.0.0.1", "0", script("rblsmtpd"), *ECHO]) as server:
        assert [server.ask(b"at once\nmore\n") for _ in range(3)] == [b"at once\n"] * 3


@pytest.mark.parametrize("way", CHAINS)
def test_a_refused_client_has_its_conversation(way: str) -> None:
    words = ["-RHl0", *CHAINS[way], "127.0.0.1", "0", script("rblsmtpd"), *ECHO]
    with Server(words, environ={"RBLSMTPD": "go away"}) as server:
        expected = b"220 rblsmtpd.local\r\n250 rblsmtpd.local\r\n451 go away\r\n221 rblsmtpd.local\r\n"
        assert [server.ask(b"helo x\r\nrcpt\r\nquit\r\n") for _ in range(3)] == [expected] * 3
        server.wait_for_log(rb"^rblsmtpd: 127\.0\.0\.1 pid \d+: 451 go away$", 3)


@pytest.mark.parametrize(
    ("words", "given", "expected"),
    [
        (["true"], {"RBLSMTPD": "-no"}, b"220 rblsmtpd.local\r\n553 no\r\n"),
        (["-r", "list.example", "-T", "1", "echo", "accepted"], {"DNSCACHEIP": "127.0.0.1"}, b"accepted\n"),
        (["-r", "list.example", "echo", "accepted"], {"TCPREMOTEIP": "nobody"}, b"accepted\n"),
    ],
)
def test_nothing_is_logged_into_the_clients_connection(
    words: list[str], given: dict[str, str], expected: bytes
) -> None:
    """Under inetd descriptor 2 is the connection, too."""
    client, connection = socket.socketpair()
    with client, connection:
        client.sendall(b"x\n")
        client.shutdown(socket.SHUT_WR)
        command = [script("rblsmtpd"), *words]
        variables = environ("192.0.2.1") | given | {"PATH": PATH}
        subprocess.run(command, stdin=connection, stdout=connection, stderr=connection, env=variables, timeout=PATIENCE)
        connection.close()
        assert read_all(client) == expected


def test_a_time_that_poll_cannot_wait_is_taken() -> None:
    given = environ("192.0.2.1", RBLSMTPD="go away")
    outcome = masked(run(script("rblsmtpd"), ["-t", "2147483647", "echo", "accepted"], TALK, given))
    assert outcome == refusal("451 go away", "192.0.2.1")


@pytest.mark.parametrize("way", CHAINS)
def test_a_refused_client_that_sends_nothing_is_dropped_after_the_time_out(way: str) -> None:
    words = ["-RHl0", *CHAINS[way], "127.0.0.1", "0", script("rblsmtpd"), "-t1", *ECHO]
    with Server(words, environ={"RBLSMTPD": "go away"}) as server, server.connect() as client:
        assert client.recv(100) == b"220 rblsmtpd.local\r\n"
        assert client.recv(100) == b""


@pytest.mark.parametrize("options", [["-w60"], ["-W", "60"], ["-W"]], ids=" ".join)
def test_a_client_that_sends_before_the_greeting_is_refused(options: list[str]) -> None:
    words = ["-RHl0", "127.0.0.1", "0", script("rblsmtpd"), *options, *ECHO]
    with Server(words, environ={"GREETDELAY": "60"}) as server, server.connect() as client:
        client.sendall(b"EHLO spammer\r\n" * 1000)
        answer = b"".join(iter(lambda: client.recv(100), b""))
        assert answer == b"554 SMTP protocol error: input before the greeting\r\n"
        server.wait_for_log(rb"^rblsmtpd: 127\.0\.0\.1 pid \d+: 554 SMTP protocol error")


def test_a_client_that_waits_is_served() -> None:
    words = ["-RHl0", "127.0.0.1", "0", script("rblsmtpd"), "-w1", "echo", "220"]
    with Server(words) as server, server.connect() as client:
        assert client.recv(100) == b"220\n"


def test_a_client_that_leaves_while_it_should_wait_is_not_logged() -> None:
    with Server(["-vRHl0", "127.0.0.1", "0", script("rblsmtpd"), "-w60", *ECHO]) as server:
        server.connect().close()
        assert b"rblsmtpd:" not in server.wait_for_log(rb"^tcpserver: end \d+ status 0")


def test_a_client_with_an_empty_variable_does_not_wait() -> None:
    words = ["-RHl0", "127.0.0.1", "0", script("rblsmtpd"), "-w3600", *R, *ECHO]
    with Server(words, environ={"RBLSMTPD": ""}) as server:
        assert server.ask(b"at once\n") == b"at once\n"


@needs_root
def test_one_process_serves_listed_and_unlisted_clients_in_turn(tmp_path: Path) -> None:
    """The list names a client of loopback here, so that a connection can come from it."""
    table: Table = {"9.0.0.127.list.test": {"A": ["127.0.0.2"], "TXT": ["nine"]}}
    home = make_home(tmp_path)
    with ListServer(own_address(1), table) as lists:
        words = ["-vRHl0", "127.0.0.1", "0", script("rblsmtpd"), *R, script("qmail-smtpd")]
        with Server(words, environ={"DNSCACHEIP": lists.host, "QMAILHOME": str(home)}) as server:
            for turn in range(3):
                refused = server.ask(b"rcpt\r\nquit\r\n", "127.0.0.9")
                assert refused == b"220 rblsmtpd.local\r\n451 nine\r\n221 rblsmtpd.local\r\n"
                assert server.ask(b"quit\r\n").startswith(b"220 mx.example.org")
                server.wait_for_log(rb"^tcpserver: end", 2 * turn + 2)
            pids = re.findall(rb"(?m)^tcpserver: pid (\d+)", server.log())
    assert len(pids) == 6
    assert len(set(pids)) < 3  # a client may come before the previous process has reported its end
