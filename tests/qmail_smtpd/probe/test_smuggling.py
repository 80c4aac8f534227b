"""The smuggling probes: a false end of a message counts as refused only if the replies can mean nothing else."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from qmail_smtpd.probe.ask import UNACCEPTED, Answer, ask_smuggling
from qmail_smtpd.probe.conversation import Conversation
from qmail_smtpd.probe.judge import BROKEN, REFUSED, TAKEN
from qmail_smtpd.probe.probes import Names
from qmail_smtpd.probe.transport import ConnectionLost, TimedOut
from qmail_smtpd.probe.tricks import smuggling_probes
from tests.kit.mailhome import CONTROL, make_home
from tests.kit.peers.standin import StandIn, Visit
from tests.kit.relaytest import Outcome, over_network
from tests.kit.server import Server as ServerOfOurs
from tests.kit.support import script

PROBE = smuggling_probes()[0]
NAME = PROBE.name
MESSAGE = b"Subject: t\r\n\r\nhello\r\n"

Replies = Sequence[bytes | None]


class Script:
    """A server whose replies after the message are given: to the message, to the command after it, to QUIT.

    None: it closes the connection. Nothing left: it is silent.
    """

    def __init__(self, *replies: Replies) -> None:
        self.replies = list(replies)
        self.pending: list[bytes | None] = []
        self.sent = b""

    def send(self, data: bytes, deadline: float) -> None:
        if None in self.pending:
            raise ConnectionLost
        self.sent += data
        if data[:4] in (b"MAIL", b"RCPT"):
            self.pending.append(b"250 ok")
        elif data == b"DATA\r\n":
            self.pending.append(b"354 go")
        elif self.replies:
            self.pending.extend(self.replies.pop(0))

    def receive(self, deadline: float) -> bytes:
        if not self.pending:
            raise TimedOut
        if self.pending[0] is None:
            raise ConnectionLost
        line = self.pending.pop(0)
        assert line
        return line + b"\r\n"

    def close(self) -> None:
        pass


OUTCOMES: dict[str, tuple[str, tuple[Replies, ...]]] = {
    "one message": (REFUSED, ([b"250 queued"], [b"502 no"], [b"221 bye"])),
    "two commands were executed": (
        TAKEN,
        ([b"250 queued", b"250 ok", b"250 ok", b"502 ."], [b"502 no"], [b"221 bye"]),
    ),
    "the second one was": (TAKEN, ([b"250 queued", b"502 \\rRSET", b"250 ok", b"502 ."], [b"502 no"], [b"221 bye"])),
    "they were executed after a refusal": (TAKEN, ([b"550 spam", b"250 ok", b"250 ok"], [b"502 no"], [b"221 bye"])),
    "two commands were refused": (
        BROKEN,
        ([b"250 queued", b"554 sync", b"554 sync", b"502 ."], [b"502 no"], [b"221 bye"]),
    ),
    "the first one was, and ended the session": (BROKEN, ([b"250 queued", b"554 sync", None],)),
    "refused, and the session goes on": (UNACCEPTED, ([b"521 bare LF"], [b"502 no"], [b"221 bye"])),
    "refused, and the session ends": (UNACCEPTED, ([b"451 bare LF", None],)),
    "refused, and so are two commands": (
        BROKEN,
        ([b"550 spam", b"554 sync", b"554 sync"], [b"502 no"], [b"221 bye"]),
    ),
    "the session ends without a reply": (BROKEN, ([None],)),
    "accepted, and the session ends": (BROKEN, ([b"250 queued", None],)),
    "the server is shut down": (BROKEN, ([b"421 down", None],)),
    "no reply": (BROKEN, ([],)),
    "no reply to the last commands": (BROKEN, ([b"250 queued"], [])),
    "no reply to QUIT": (BROKEN, ([b"250 queued"], [b"502 no"], [])),
    "another reply to QUIT": (BROKEN, ([b"250 queued"], [b"502 no"], [b"502 no", None])),
    "not a reply": (BROKEN, ([b"250 queued"], [b"hello"])),
    "endless replies": (BROKEN, ([b"250 queued"], [b"502 no"] * 50)),
}


@pytest.mark.parametrize("case", OUTCOMES)
def test_only_replies_in_step_are_a_refusal(case: str) -> None:
    outcome, replies = OUTCOMES[case]
    server = Script(*replies)
    answer = ask_smuggling(Conversation(server, 0.1), PROBE, Names(), b"me@example.com", MESSAGE)
    assert answer.outcome == outcome
    assert answer.with_message
    assert MESSAGE.removesuffix(b"\r\n") + PROBE.ending + b"RSET\r\nRSET\r\n.\r\n" in server.sent
    assert b"NOOP" not in server.sent  # Postfix since 3.9 refuses it if more input follows


class Server(StandIn):
    """A server that refuses each message that contains this text."""

    def __init__(self, refused: bytes) -> None:
        super().__init__()
        self.refused = refused

    def answer_to(self, visit: Visit, text: bytes) -> bytes | None:
        if visit.reading and self.refused in text:
            visit.reading = False
            return b"550 refused\r\n"
        return super().answer_to(visit, text)


def ask(server: StandIn) -> Outcome:
    words = ("--send", "me@example.com", "--listed", "example.com", "--only", "smuggling/*", "--json")
    return over_network(server.port, *words)


def test_a_server_that_refuses_only_messages_with_a_false_end_is_closed() -> None:
    with Server(b"RSET") as server:
        done = ask(server)
        assert done.exit == 0
        assert {done.results[name] for name in done.results if name.startswith("smuggling/")} == {"refused"}
        [(recipients, text)] = server.messages  # the control, sent once
        assert recipients == [b"me@example.com"]
        assert b"smuggling/none" in text


def test_a_server_that_refuses_every_message_is_cannot_tell() -> None:
    with Server(b"") as server:
        done = ask(server)
    assert done.exit == 2
    by_data = [probe.name for probe in smuggling_probes() if not probe.chunked]
    assert {done.results[name] for name in by_data} == {"cannot tell"}
    [probe] = [probe for probe in done.json["clients"][0]["probes"] if probe["name"] == NAME]
    assert probe["why"] == "it refuses the message without the false end as well"


CHUNKED = [probe for probe in smuggling_probes() if probe.chunked]


class ChunkingScript(Script):
    """A server that offers CHUNKING."""

    def send(self, data: bytes, deadline: float) -> None:
        if data.startswith(b"EHLO"):
            self.pending += [b"250-mx", b"250 CHUNKING"]
        else:
            super().send(data, deadline)


def ask_chunked(server: Script) -> Answer:
    conversation = Conversation(server, 0.1)
    server.pending.insert(0, b"220 mx")
    assert conversation.open(b"", b"me") == ""
    return ask_smuggling(conversation, CHUNKED[-1], Names(), b"me@example.com", MESSAGE)


@pytest.mark.parametrize("case", ["one message", "two commands were executed", "refused, and the session ends"])
def test_a_chunk_is_sent_whole_to_a_server_that_offers_chunking(case: str) -> None:
    outcome, replies = OUTCOMES[case]
    server = ChunkingScript(*replies)
    answer = ask_chunked(server)
    assert answer.outcome == outcome
    text = MESSAGE.removesuffix(b"\r\n") + b"\r\n.\r\nRSET\r\nRSET\r\n"
    assert b"BDAT %d LAST\r\n%b" % (len(text), text) in server.sent
    assert b"DATA\r\n" not in server.sent


@pytest.mark.parametrize(("reply", "outcome"), [(b"502 no", REFUSED), (b"250 ok", BROKEN), (b"421 no", BROKEN)])
def test_a_server_without_chunking_gets_no_text_that_it_could_execute(reply: bytes, outcome: str) -> None:
    class Plain(Script):
        def send(self, data: bytes, deadline: float) -> None:
            super().send(data, deadline)
            if data.startswith(b"EHLO"):
                self.pending = [b"250 mx"]

    server = Plain([], [reply])
    assert ask_chunked(server).outcome == outcome
    assert b"RSET" not in server.sent


@pytest.mark.parametrize("chunking", [True, False])
def test_qmail_smtpd_lets_nothing_be_smuggled_by_bdat_either(tmp_path: Path, chunking: bool) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, **({"chunking": ""} if chunking else {})})
    with ServerOfOurs(["-RHl0", "127.0.0.1", "0", script("qmail-smtpd")], environ={"QMAILHOME": str(home)}) as server:
        words = ("--send", "me@example.com", "--listed", "example.com", "--only", "smuggling/*", "--json")
        done = over_network(server.port, *words, "--pause", "0")
    assert done.exit == 0
    found = {name: result for name, result in done.results.items() if name.startswith("smuggling/")}
    assert len(found) == 23
    assert set(found.values()) == {"refused"}
    by_bdat = [file for file in (home / "dump").glob("*.m") if b"smuggling/bdat-" in file.read_bytes()]
    assert len(by_bdat) == (12 if chunking else 0)
