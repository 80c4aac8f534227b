"""Asking policy services over real sockets: kept connections, and services that hang, close or talk nonsense."""

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import pytest

from qmail_smtpd.net.kept import FIRST_KEPT
from qmail_smtpd.services import connection, resolver
from qmail_smtpd.services.consultant import Consultant, keysize
from qmail_smtpd.services.listing import Services
from qmail_smtpd.services.protocol import LONGEST_ANSWER
from qmail_smtpd.smtp.replies import POLICY_FAILURE
from qmail_smtpd.smtp.ruling import Ruling
from tests.kit.policyserver import Answer, PolicyServer, closes, hangs, says, sends
from tests.kit.server import PATIENCE, room_for
from tests.kit.support import free_port

QUESTION = {b"sender": b"s@s.test", b"recipient": b"u@ok.test", b"instance": b"1", b"sasl_username": b""}
SHORT = 0.2  # seconds that a service has, in tests of services that never answer


@pytest.fixture(autouse=True)
def no_kept_connections() -> Iterator[None]:
    yield
    while connection.kept:
        connection.kept.popitem()[1].close()


def consultant(*lines: str, open_on_failure: bool = False) -> Consultant:
    return Consultant(Services([line.encode() for line in lines], open_on_failure))


def consult(
    asking: Consultant, instance: bytes = b"1", may_relay: bool = False, seconds: float = PATIENCE, **environ: bytes
) -> Ruling:
    variables = {name.encode(): value for name, value in environ.items()}
    return asking.consult({**QUESTION, b"instance": instance}, variables, may_relay, monotonic() + seconds)


def why(answer: Answer, seconds: float = PATIENCE) -> bytes:
    """Return the reason why a service with this answer cannot be asked. No connection to it is kept."""
    with PolicyServer(answer) as server:
        ruling = consult(consultant(server.name), seconds=seconds)
        assert ruling.reply == POLICY_FAILURE
        assert ruling.facts[b"service"] == server.name.encode()
        assert not connection.kept
        return ruling.facts[b"why"]


def test_a_question_has_the_attributes_of_postfix() -> None:
    with PolicyServer(says("DUNNO")) as server:
        environ = {
            "TCPREMOTEIP": b"192.0.2.1",
            "TCPREMOTEHOST": b"client.test",
            "TCPREMOTEPORT": b"4711",
            "TCPLOCALIP": b"192.0.2.2",
            "TCPLOCALPORT": b"25",
            "TLS_PROTOCOL": b"TLSv1.3",
            "TLS_CIPHER": b"TLS_AES_256_GCM_SHA384",
        }
        consult(consultant(f"{server.name} policy_context=inbound"), **environ)
    (question,) = server.questions
    assert question.pop("instance").endswith(".1")
    assert question == {
        "request": "smtpd_access_policy",
        "protocol_state": "RCPT",
        "sender": "s@s.test",
        "recipient": "u@ok.test",
        "recipient_count": "0",
        "queue_id": "",
        "client_address": "192.0.2.1",
        "client_name": "client.test",
        "reverse_client_name": "client.test",
        "client_port": "4711",
        "server_address": "192.0.2.2",
        "server_port": "25",
        "sasl_username": "",
        "sasl_sender": "",
        "encryption_protocol": "TLSv1.3",
        "encryption_cipher": "TLS_AES_256_GCM_SHA384",
        "encryption_keysize": "256",
        "ccert_subject": "",
        "ccert_issuer": "",
        "ccert_fingerprint": "",
        "ccert_pubkey_fingerprint": "",
        "etrn_domain": "",
        "stress": "",
        "policy_context": "inbound",
    }


def test_the_size_of_the_key_is_in_the_name_of_the_cipher() -> None:
    names = b"ECDHE-RSA-AES128-GCM-SHA256 TLS_CHACHA20_POLY1305_SHA256 TLS_AES_128_GCM_SHA256".split()
    assert [keysize(name) for name in [*names, b""]] == [b"128", b"256", b"128", b"0"]


def test_one_connection_is_kept_for_all_questions_of_a_process(tmp_path: Path) -> None:
    with PolicyServer(says("DUNNO"), str(tmp_path / "s")) as server:
        for number in range(20):
            assert consult(consultant(server.name), b"%d" % (number // 3)).reply is None
        assert (server.connections, len(server.questions)) == (1, 20)
        assert connection.kept[bytes(tmp_path / "s")].descriptor >= FIRST_KEPT
        instances = [question["instance"] for question in server.questions]
    assert len({instance.rpartition(".")[2] for instance in instances}) == 7


def test_a_host_name_is_looked_up() -> None:
    with PolicyServer(says("REJECT")) as server:
        name = server.name.replace("127.0.0.1", "localhost")
        assert consult(consultant(name)).facts[b"reason"] == b"policy"


def test_a_kept_connection_that_the_service_has_closed_is_replaced() -> None:
    with PolicyServer(says("DUNNO")) as server:
        asking = consultant(server.name)
        consult(asking)
        server.disconnect()
        assert consult(asking).reply is None
        assert (server.connections, len(server.questions)) == (2, 2)


def test_a_kept_connection_that_is_closed_by_the_next_question_is_replaced_once() -> None:
    def answer(server: PolicyServer, client: socket.socket, question: dict[str, str]) -> None:
        if len(server.questions) == 2:
            client.shutdown(socket.SHUT_RDWR)
        else:
            client.sendall(b"action=DUNNO\n\n")

    with PolicyServer(answer) as server:
        asking = consultant(server.name)
        assert [consult(asking).reply for _ in range(3)] == [None] * 3
        assert (server.connections, len(server.questions)) == (2, 4)


def test_a_connection_of_another_process_is_not_used() -> None:
    with PolicyServer(says("DUNNO")) as server:
        consult(consultant(server.name))
        connection.kept[server.name.encode()].pid += 1
        consult(consultant(server.name))
        assert server.connections == 2


def test_an_answer_that_nobody_has_asked_for_is_not_taken_for_the_next_one() -> None:
    def answer(server: PolicyServer, client: socket.socket, question: dict[str, str]) -> None:
        client.sendall(b"action=REJECT\n\n" if len(server.questions) == 2 else b"action=DUNNO\n\n")

    with PolicyServer(answer) as server:
        asking = consultant(server.name)
        consult(asking)
        server.clients[0].sendall(b"action=OK\n\n")
        assert consult(asking).reply is not None
        assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (closes, b"closed"),
        (sends(b"HTTP/1.1 400 Bad Request\r\n\r\nno\n\n"), b"malformed"),
        (sends(b"action=DUNNO\n\naction=DUNNO\n\n"), b"malformed"),
        (sends(b"action=DUNNO\n\nx"), b"malformed"),
        (sends(b"x" * (1 << 20)), b"too_long"),
        (sends(b"action=REJECT " + b"x" * LONGEST_ANSWER + b"\n\n"), b"too_long"),
    ],
)
def test_nonsense_is_a_failure(answer: Answer, expected: bytes) -> None:
    assert why(answer) == expected


def test_an_answer_whose_action_is_unknown_is_a_failure() -> None:
    with PolicyServer(says("RELAY")) as server:
        assert consult(consultant(server.name)).facts[b"why"] == b"unknown_action"


@pytest.mark.parametrize("answer", [hangs, sends(b"action=DUN"), sends(b"action=DUNNO\n")])
def test_a_service_that_never_answers_is_a_failure(answer: Answer) -> None:
    assert why(answer, SHORT) == b"timeout"


def test_a_service_that_answers_byte_by_byte_has_no_more_time() -> None:
    def answer(server: PolicyServer, client: socket.socket, question: dict[str, str]) -> None:
        while True:
            client.sendall(b"x")
            if select_closed(client):
                return

    assert why(answer, SHORT) in (b"timeout", b"too_long")


def select_closed(client: socket.socket) -> bool:
    """Wait a moment for the end of the connection."""
    client.settimeout(0.02)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False


def test_a_service_that_does_not_accept_is_a_failure(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(tmp_path / "s"))
            assert consult(consultant(f"unix:{tmp_path}/s"), seconds=SHORT).facts[b"why"] == b"timeout"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("unix:/nonexistent/s", b"connect:file_does_not_exist"),
        ("inet:127.0.0.1:{port}", b"connect:connection_refused"),
        ("inet:nosuchhost.invalid:1", b"no_address"),
        ("inet:127.0.0.1", b"not_understood"),
    ],
)
def test_a_service_that_cannot_be_reached_is_a_failure(line: str, expected: bytes) -> None:
    ruling = consult(consultant(line.format(port=free_port())))
    assert (ruling.reply, ruling.facts[b"why"]) == (POLICY_FAILURE, expected)


def test_without_a_thread_or_a_descriptor_a_service_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    threads = SimpleNamespace(start_new_thread=refuse, allocate_lock=resolver._thread.allocate_lock)
    monkeypatch.setattr(resolver, "_thread", threads)
    assert consult(consultant("inet:localhost:1")).facts[b"why"] == b"no_thread"
    assert consult(consultant("inet:localhost:1", open_on_failure=True)).reply is None
    with room_for(0):
        ruling = consult(consultant("unix:/nonexistent/s"))
    assert ruling.facts[b"why"] == b"connect:process_cannot_open_more_files"


def test_a_service_that_failed_is_asked_again_only_in_the_next_transaction() -> None:
    with PolicyServer(closes) as server:
        asking = consultant(server.name)
        for _ in range(5):
            assert consult(asking).facts[b"why"] == b"closed"
        assert len(server.questions) == 1
        consult(asking, b"2")
        assert len(server.questions) == 2


def test_after_a_failure_the_next_service_is_asked_if_the_failure_is_to_be_ignored() -> None:
    with PolicyServer(says("REJECT")) as server:
        lines = ("unix:/nonexistent/s", server.name)
        ruling = consult(consultant(*lines, open_on_failure=True))
        assert ruling.facts[b"service"] == server.name.encode()
        text = b"policy service unix:/nonexistent/s: connect:file_does_not_exist: going on without it"
        assert ruling.warnings == [text]
        assert consult(consultant(*lines)).reply == POLICY_FAILURE
        assert len(server.questions) == 1


def test_a_line_that_is_not_understood_refuses_even_then() -> None:
    assert consult(consultant("postgrey", open_on_failure=True)).reply == POLICY_FAILURE


def test_services_are_asked_only_about_their_clients() -> None:
    with PolicyServer(says("REJECT")) as server:
        for word, relaying in (("relay", True), ("norelay", False)):
            asking = consultant(f"{server.name} {word}")
            assert consult(asking, may_relay=relaying).reply is not None
            assert consult(asking, may_relay=not relaying).reply is None
        assert len(server.questions) == 2


def test_without_room_for_more_descriptors_no_connection_is_kept() -> None:
    before = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with PolicyServer(says("DUNNO")) as server:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FIRST_KEPT, hard))
        try:
            assert [consult(consultant(server.name)).reply for _ in range(3)] == [None] * 3
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert server.connections == 3
    assert not connection.kept
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_descriptor_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        consult(consultant("unix:/nonexistent/s", "inet:nosuchhost.invalid:1", open_on_failure=True))
    assert len(os.listdir("/proc/self/fd")) == before
