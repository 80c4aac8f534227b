"""Sessions of real processes with policy services: replies, log, headers, and connections kept over clients."""

import re
from collections.abc import Sequence
from pathlib import Path
from socket import socket

import pytest

from tests.kit.mailhome import CLIENT, CONTROL, Result, make_home, start, talk
from tests.kit.policyserver import PolicyServer, closes, hangs, says
from tests.kit.server import Server, compiled, descriptors
from tests.kit.support import script

HELLO = "EHLO client.test\r\n"
TO = "MAIL FROM:<s@s.test> SIZE=1234\r\nRCPT TO:<{}>\r\n"
SEND = TO.format("u@example.com") + "DATA\r\nSubject: x\r\n\r\nhello\r\n.\r\n"


def home_with(tmp_path: Path, *services: str, **control: str) -> Path:
    lines = "".join(f"{service}\n" for service in services)
    return make_home(tmp_path / "home", {**CONTROL, "policyservice": lines, **control})


def facts(log: bytes, event: str) -> list[dict[str, str]]:
    """Return the facts of these events."""
    lines = re.findall(rf"event={event} (.*)", log.decode())
    return [dict(word.split("=", 1) for word in line.split(" ")) for line in lines]


def test_a_recipient_that_the_service_refuses_gets_its_reply(tmp_path: Path) -> None:
    with PolicyServer(says("DEFER_IF_PERMIT Greylisted", "REJECT no", "DUNNO")) as server:
        result = talk(home_with(tmp_path, server.name), HELLO + TO.format("u@example.com") * 2 + SEND + "QUIT\r\n")
    assert b"\r\n450 Greylisted (#4.7.1)\r\n250 ok\r\n554 no (#5.7.1)\r\n250 ok\r\n250 ok\r\n354 " in result.stdout
    assert len(result.queue) == 1
    first = facts(result.stderr, "refused")[0]
    assert first["service"] == server.name
    assert (first["reason"], first["reply"]) == ("policy", "450_Greylisted_(#4.7.1)")
    question = server.questions[0]
    assert (question["helo_name"], question["protocol_name"], question["size"]) == ("client.test", "ESMTP", "1234")
    assert (question["client_address"], question["client_name"]) == (CLIENT["TCPREMOTEIP"], CLIENT["TCPREMOTEHOST"])


@pytest.mark.parametrize("action", ["OK", "DUNNO", "PERMIT", "PREPEND X: y", "WARN x", "HOLD", "RELAY", "250 ok", "2"])
def test_no_action_lets_a_client_relay(action: str, tmp_path: Path) -> None:
    with PolicyServer(says(action)) as server:
        home = home_with(tmp_path, server.name)
        result = talk(home, HELLO + TO.format("u@elsewhere.test") + "DATA\r\nQUIT\r\n")
    assert result.codes[-4:] == ["250", "553", "503", "221"]
    assert server.questions == []


def test_clients_that_may_relay_are_asked_about_unless_the_line_says_otherwise(tmp_path: Path) -> None:
    environ = {**CLIENT, "RELAYCLIENT": ""}
    text = TO.format("u@elsewhere.test") + "QUIT\r\n"
    with PolicyServer(says("REJECT")) as server:
        assert talk(home_with(tmp_path, server.name), text, environ).codes[-2] == "554"
        (tmp_path / "home/control/policyservice").write_text(f"{server.name} norelay\n")
        assert talk(tmp_path / "home", text, environ).codes[-2] == "250"
        assert talk(tmp_path / "home", text.replace("elsewhere.test", "example.com")).codes[-2] == "554"


def test_replies_keep_the_order_of_pipelined_recipients_with_limits_for_relaying(tmp_path: Path) -> None:
    (tmp_path / "store/counts").mkdir(parents=True)
    refuses = {f"r{number}@away.test": "REJECT no" for number in (2, 6)} | {"r3@example.com": "450 later"}
    control = {"relaydir": f"{tmp_path}/store\n", "relaylimits": ".: 3/3600\n"}
    recipients = [f"r{number}@{'example.com' if number % 3 == 0 else 'away.test'}" for number in range(8)]
    recipients[6] = "r6@away.test"

    def answer(server: PolicyServer, client: socket, question: dict[str, str]) -> None:
        client.sendall(f"action={refuses.get(question['recipient'], 'DUNNO')}\n\n".encode())

    with PolicyServer(answer) as server:
        home = home_with(tmp_path, server.name, **control)
        text = "MAIL FROM:<s@s.test>\r\n" + "".join(f"RCPT TO:<{recipient}>\r\n" for recipient in recipients)
        result = talk(home, text + "NOOP\r\n" + f"RCPT TO:<{recipients[0]}>\r\nQUIT\r\n", {**CLIENT, "RELAYCLIENT": ""})
    assert [question["recipient"] for question in server.questions] == [*recipients, recipients[0]]
    # r1, r4 and r5 are relayed; r0 and r3 are of this host
    assert " ".join(result.codes) == "220 250 250 250 554 450 250 250 554 452 250 250 221"


def test_headers_are_prepended_to_the_message_of_their_transaction(tmp_path: Path) -> None:
    with PolicyServer(says("PREPEND X-First: a", "PREPEND X-Second: b", "DUNNO")) as server:
        text = HELLO + TO.format("u@example.com") + "RSET\r\n" + SEND + SEND
        result = talk(home_with(tmp_path, server.name), text + "QUIT\r\n")
    first, second = (message for message, _ in result.queue)
    assert first.startswith(b"X-Second: b\nReceived: from client.example.net (HELO client.test)")
    assert second.startswith(b"Received: ")


def test_a_note_of_a_service_is_logged(tmp_path: Path) -> None:
    with PolicyServer(says("WARN a b\x7f=")) as server:
        result = talk(home_with(tmp_path, server.name), TO.format("u@example.com") + "QUIT\r\n")
    (note,) = facts(result.stderr, "warned")
    assert (note["recipient"], note["text"]) == ("u@example.com", "a\\x20b\\x7f\\x3d")


def test_421_from_a_service_ends_the_session(tmp_path: Path) -> None:
    with PolicyServer(says("421 4.7.0 bye")) as server:
        result = talk(home_with(tmp_path, server.name), SEND)
    assert result.stdout.endswith(b"250 ok\r\n421 4.7.0 bye\r\n")
    assert result.status == 1
    assert result.queue == []


def test_a_service_that_hangs_refuses_for_now_after_its_time(tmp_path: Path) -> None:
    with PolicyServer(hangs) as server:
        text = TO.format("u@example.com") + "RCPT TO:<v@example.com>\r\nQUIT\r\n"
        result = talk(home_with(tmp_path, server.name), text)
    assert result.stdout.count(b"451 policy service is not available (#4.3.0)\r\n") == 2
    assert [fact["why"] for fact in facts(result.stderr, "refused")] == ["timeout", "timeout"]
    assert len(server.questions) == 1


def test_with_policyfailure_open_a_service_that_fails_is_passed_over(tmp_path: Path) -> None:
    with PolicyServer(closes) as server:
        result = talk(home_with(tmp_path, server.name, policyfailure="open\n"), SEND + "QUIT\r\n")
    assert len(result.queue) == 1
    assert f"warning: policy service {server.name}: closed: going on without it\n" in result.stderr.decode()


@pytest.mark.parametrize("word", ["", "closed\n", "open it\n"])
def test_any_other_policyfailure_refuses(word: str, tmp_path: Path) -> None:
    result = talk(home_with(tmp_path, "unix:nosuchsocket", policyfailure=word), SEND + "QUIT\r\n")
    assert b"\r\n451 policy service" in result.stdout
    assert result.queue == []


def test_a_line_that_is_not_understood_is_named_and_accepts_nobody(tmp_path: Path) -> None:
    result = talk(home_with(tmp_path, "postgrey:10023", policyfailure="open\n"), SEND + "QUIT\r\n")
    assert result.queue == []
    text = "control/policyservice has a line that is not understood, so that no recipient is accepted: postgrey:10023: "
    assert text in result.stderr.decode()


def test_an_unreadable_file_ends_the_session(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "policyservice": {"dir": True}})
    assert talk(home, SEND).stdout == b"421 unable to read controls (#4.3.0)\r\n"


def test_a_file_of_comments_asks_nobody(tmp_path: Path) -> None:
    assert len(talk(home_with(tmp_path, "# inet:127.0.0.1:1", ""), SEND + "QUIT\r\n").queue) == 1


def test_replies_to_earlier_commands_do_not_wait_for_a_service(tmp_path: Path) -> None:
    with PolicyServer(hangs) as server:
        process = start(home_with(tmp_path, server.name), cwd=tmp_path)
        assert process.stdin
        assert process.stdout
        process.stdin.write((HELLO + TO.format("u@example.com")).encode())
        process.stdin.flush()
        assert b"".join(process.stdout.readline() for _ in range(5)).endswith(b"8BITMIME\r\n250 ok\r\n")
        process.kill()
        process.communicate()


def serving(home: Path, *options: str, program: Sequence[str] = (), rules: Path | None = None) -> Server:
    words = ["-v", "-RHl0", *options, *(["-x", str(rules)] if rules else [])]
    return Server([*words, "127.0.0.1", "0", *program, script("qmail-smtpd")], environ={"QMAILHOME": str(home)})


def test_a_reused_process_keeps_its_connection_over_clients(tmp_path: Path) -> None:
    with PolicyServer(says("DUNNO")) as service:
        home = home_with(tmp_path, service.name)
        with serving(home) as server:
            for number in range(10):
                assert b"\r\n354 " in server.ask(SEND.encode())
                log = server.wait_for_log(rb"^tcpserver: end ", number + 1)
            pids = set(re.findall(rb"tcpserver: pid (\d+) ", log))
            assert len(pids) == 1
            assert service.connections == 1
            assert len(service.questions) == 10
            (worker,) = pids
            once = descriptors(int(worker))
            server.ask(SEND.encode())
            assert descriptors(int(worker)) == once
    assert len(list((home / "dump").glob("*.m"))) == 11


@pytest.mark.parametrize("options", [["--exec"], ["--reuse", "1"]])
def test_other_processes_connect_for_their_client(options: list[str], tmp_path: Path) -> None:
    with PolicyServer(says("DUNNO")) as service, serving(home_with(tmp_path, service.name), *options) as server:
        for _ in range(3):
            assert b"\r\n354 " in server.ask(SEND.encode())
        assert service.connections == 3


def test_the_client_of_a_proxy_is_asked_about_by_its_own_address(tmp_path: Path) -> None:
    rules = compiled(tmp_path / "cdb", ":allow\n")
    with PolicyServer(says("DUNNO")) as service:
        home = home_with(tmp_path, service.name, xclienthosts="127.0.0.1\n")
        with serving(home, rules=rules) as server:
            text = "EHLO p\r\nXCLIENT ADDR=192.0.2.7 NAME=c.test\r\nEHLO c\r\n" + SEND + "QUIT\r\n"
            assert "354" in Result(server.ask(text.encode()), b"", 0, home).codes
    (question,) = service.questions
    assert (question["client_address"], question["client_name"], question["helo_name"]) == ("192.0.2.7", "c.test", "c")


def test_a_relative_path_is_another_service_in_another_home_for_the_same_process(tmp_path: Path) -> None:
    homes = [make_home(tmp_path / name, {**CONTROL, "policyservice": "unix:policy\n"}) for name in ("a", "b")]
    cdb = compiled(tmp_path / "cdb", f'127.0.0.2:allow,QMAILHOME="{homes[1]}"\n:allow\n')
    words = ["-1", "-RHl0", "-c1", "-x", str(cdb), "127.0.0.1", "0", script("qmail-smtpd")]
    with (
        PolicyServer(says("DUNNO"), f"{homes[0]}/policy") as first,
        PolicyServer(says("REJECT"), f"{homes[1]}/policy") as second,
        Server(words, environ={"QMAILHOME": str(homes[0])}) as server,
    ):
        text = (TO.format("u@example.com") + "QUIT\r\n").encode()
        codes = [Result(server.ask(text, f"127.0.0.{number}"), b"", 0, tmp_path).codes[2] for number in (1, 2) * 4]
        assert codes == ["250", "554"] * 4
        assert max(first.connections, second.connections) < 4  # they are kept
