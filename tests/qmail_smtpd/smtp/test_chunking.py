"""BDAT in the conversation: every table whole, in pieces and at every split; refusals; what a chunk never does."""

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from qmail_smtpd.smtp import replies
from qmail_smtpd.smtp.session import Session
from tests.kit.echo import Echo, converse, settings
from tests.kit.support import times

SENDER, RECIPIENT = b"MAIL FROM:<s@s.test>\r\n", b"RCPT TO:<u@ok.test>\r\n"
TRANSACTION = SENDER + RECIPIENT
ENVELOPE = b"Fs@s.test\0Tu@ok.test\0\0"
QUEUED = b"250 ok 1 qp 2"
HOPS = b"Received: x\r\n" * 100 + b"\r\n"


def bdat(text: bytes, last: bool = False) -> bytes:
    """Return a chunk and its command."""
    return b"BDAT %d%b\r\n%b" % (len(text), b" LAST" if last else b"", text)


def chunked(data: bytes, size: int = 0, echo: Echo | None = None, **changes: object) -> tuple[Session, Echo]:
    return converse(data, size, echo, **{"chunking": True, **changes})


def in_two(data: bytes, position: int, **changes: object) -> tuple[Session, Echo]:
    """Return a session that was fed the data in two pieces."""
    echo = Echo()
    session = Session(settings(**{"chunking": True, **changes}), echo)
    session.greet()
    session.feed(data[:position])
    session.feed(data[position:])
    return session, echo


def codes(echo: Echo) -> str:
    return " ".join(line[:3].decode() for line in echo.replies[1:])


def texts(echo: Echo) -> list[bytes]:
    """Return the queued messages without the Received line."""
    return [message.partition(b"-0000\n")[2] for message, _ in echo.queued]


COMMANDS = TRANSACTION + b"DATA\r\nsmuggled\r\n.\r\nQUIT\r\n"

SHOWN = COMMANDS.replace(b"\r", b"")
CONVERSATIONS: list[tuple[bytes, str, list[bytes], int | None]] = [
    (TRANSACTION + bdat(b"a\r\n", True) + b"QUIT\r\n", "250 250 250 221", [b"a\n"], 0),
    (TRANSACTION + bdat(b"a\r\nb") + bdat(b"c\r\n", True) + b"NOOP\r\n", "250 250 250 250 250", [b"a\nbc\n"], None),
    (TRANSACTION + bdat(b"a\r\n") + b"BDAT 0 LAST\r\n", "250 250 250 250", [b"a\n"], None),
    (TRANSACTION + b"bdat 0\r\nBdat 0 last\r\n", "250 250 250 250", [b""], None),
    (TRANSACTION + b"BDAT 0\r\n" * 3 + bdat(b"a", True), "250 250 250 250 250 250", [b"a\n"], None),
    (TRANSACTION + b"".join(map(bdat, [b"a", b"\r", b"\n", b"b"])) + bdat(b"\n", True), "250 " * 7, [b"a\nb\n"], None),
    (TRANSACTION + bdat(COMMANDS) + bdat(b".\r\n", True), "250 250 250 250", [SHOWN + b".\n"], None),
    (TRANSACTION + bdat(b"BDAT 3 LAST\r\nabc", True), "250 250 250", [b"BDAT 3 LAST\nabc\n"], None),
    (TRANSACTION + bdat(b"a\r\n", True) + TRANSACTION + bdat(b"b\r\n", True), "250 " * 6, [b"a\n", b"b\n"], None),
    (TRANSACTION + bdat(b"a", True) + TRANSACTION + b"DATA\r\n.\r\n", "250 " * 5 + "354 250", [b"a\n", b""], None),
    # Line ends: whatever may be meant as a line end is one, and a dot is only a dot.
    (TRANSACTION + bdat(b"a\nb\r\n\nc", True), "250 250 250", [b"a\nb\n\nc\n"], None),
    (TRANSACTION + bdat(b".\r\n..\r\n\n.\n.a\r\n.\r\n", True), "250 250 250", [b".\n..\n\n.\n.a\n.\n"], None),
    (TRANSACTION + bdat(b"a\rb\r\r\nc\r", True), "250 250 250", [b"a\rb\r\nc\r\n"], None),
    (TRANSACTION + bdat(b"\0\xff\r\n", True), "250 250 250", [b"\0\xff\n"], None),
    # No transaction: the chunk is dropped.
    (bdat(b"QUIT\r\n") + b"NOOP\r\n", "503 250", [], None),
    (SENDER + bdat(COMMANDS, True) + b"NOOP\r\n", "250 503 250", [], None),
    (SENDER + bdat(b"x", True) + RECIPIENT + bdat(b"y", True), "250 503 250 250", [b"y\n"], None),
    (TRANSACTION + bdat(b"a\r\n", True) + bdat(COMMANDS, True), "250 250 250 503", [b"a\n"], None),
    (SENDER + b"RCPT TO:<u@evil.test>\r\n" + bdat(COMMANDS, True) + b"QUIT\r\n", "250 553 503 221", [], 0),
    # Between two chunks.
    (TRANSACTION + bdat(b"a") + b"DATA\r\n" + bdat(b"b", True), "250 250 250 503 250", [b"ab\n"], None),
    (TRANSACTION + bdat(b"a") + TRANSACTION + bdat(b"b", True), "250 250 250 503 503 250", [b"ab\n"], None),
    (TRANSACTION + bdat(b"a") + b"VRFY x\r\nX\r\n" + bdat(b"b", True), "250 250 250 252 502 250", [b"ab\n"], None),
    (TRANSACTION + bdat(b"a") + b"RSET\r\n" + bdat(COMMANDS, True), "250 250 250 250 503", [], None),
    (TRANSACTION + bdat(b"a") + b"RSET\r\n" + TRANSACTION + bdat(b"b", True), "250 " * 7, [b"b\n"], None),
    (TRANSACTION + bdat(b"a") + b"HELO x\r\n" + bdat(COMMANDS), "250 250 250 250 503", [], None),
    (TRANSACTION + bdat(b"a") + b"QUIT\r\n", "250 250 250 221", [], 0),
    # BDAT behind 354 is text of the message.
    (TRANSACTION + b"DATA\r\nBDAT 9 LAST\r\n.\r\nNOOP\r\n", "250 250 354 250 250", [b"BDAT 9 LAST\n"], None),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(CONVERSATIONS)))
def test_chunks_have_these_replies_and_give_these_messages(case: int) -> None:
    data, wanted, messages, status = CONVERSATIONS[case]
    for size in (0, 1, 2, 3, 7):
        session, echo = chunked(data, size)
        assert codes(echo) == wanted.strip()
        assert (texts(echo), session.status) == (messages, status)
        assert {envelope for _, envelope in echo.queued} <= {ENVELOPE}


@pytest.mark.parametrize("case", range(len(CONVERSATIONS)))
def test_a_session_with_chunks_is_the_same_at_every_split(case: int) -> None:
    data = CONVERSATIONS[case][0]
    whole, first = chunked(data)
    for position in range(1, len(data)):
        parts, second = in_two(data, position)
        assert (first.replies, first.queued, whole.status) == (second.replies, second.queued, parts.status)


def test_chunking_is_offered_after_8bitmime_where_it_is_wanted() -> None:
    ehlo = chunked(b"EHLO a\r\n", databytes=9)[1].replies[1:]
    assert ehlo == [b"250-mx", b"250-PIPELINING", b"250-8BITMIME", b"250-CHUNKING", b"250 SIZE 9"]


@pytest.mark.parametrize("command", [b"BDAT 3 LAST", b"BDAT x", b"BDAT"])
def test_bdat_is_unimplemented_where_chunking_is_not_offered(command: bytes) -> None:
    session, echo = converse(TRANSACTION + command + b"\r\n")
    assert (echo.replies[-1], session.status) == (b"502 unimplemented (#5.5.1)", None)


# A size that cannot be known.


@pytest.mark.parametrize(
    "argument", [b"", b" x", b" -1", b"\t3", b"3", b" 3 \0", b" 3 LAST x", b" " * 8186 + b"34 LAST", b" " + b"9" * 30]
)
@pytest.mark.parametrize("before", [b"", TRANSACTION, TRANSACTION + bdat(b"a")], ids=["none", "first", "second"])
def test_a_size_that_cannot_be_known_ends_the_session_with_one_reply(argument: bytes, before: bytes) -> None:
    for size in (0, 1):
        session, echo = chunked(before + b"BDAT" + argument + b"\r\n" + b"RSET\r\n" + COMMANDS, size)
        assert echo.replies[-1] == b"501 BDAT size [LAST] expected (#5.5.4)"
        assert (len(echo.replies), session.status) == (2 + before.count(b"\n") - before.count(b"a@"), 1)
        assert not echo.queued
        assert echo.decisions[-1][1][b"reason"] == b"chunk"


# Refusals: each reads and drops exactly its chunk, and leaves nothing behind.


@pytest.mark.parametrize(
    ("text", "changes", "refusal"),
    [
        (b"x" * 101, {}, replies.TOO_BIG),
        (HOPS, {}, replies.TOO_MANY_HOPS),
        (b"a\rb", {"refuse_bare_cr": True}, replies.BARE_CR),
        (b"a\r\r\n", {"refuse_bare_cr": True}, replies.BARE_CR),
    ],
    ids=["size", "hops", "cr", "cr crlf"],
)
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("size", [0, 1, 5])
def test_a_refused_chunk_is_read_to_its_end(
    text: bytes, changes: dict[str, object], refusal: bytes, last: bool, size: int
) -> None:
    data = TRANSACTION + bdat(text + COMMANDS, last) + bdat(COMMANDS) + TRANSACTION + bdat(b"ok\r\n", True)
    session, echo = chunked(data, size, **{"databytes": 100, **changes})
    assert echo.replies[3:] == [refusal, replies.MAIL_FIRST, replies.OK, replies.OK, QUEUED]
    assert texts(echo) == [b"ok\n"]
    assert len(echo.discarded) == 1
    assert session.status is None


def test_the_limit_is_that_of_the_sum_of_all_chunks() -> None:
    _, echo = chunked(TRANSACTION + bdat(b"12345\r\n") * 2 + bdat(b"1", True) + b"NOOP\r\n", databytes=12)
    assert echo.replies[-4:] == [replies.OK, replies.OK, replies.TOO_BIG, replies.OK]  # with the added line end: 14
    _, echo = chunked(TRANSACTION + bdat(b"12345\r\n") * 2 + bdat(b"", True), databytes=12)
    assert echo.replies[-1] == QUEUED


def test_a_queue_program_that_cannot_be_started_refuses_the_chunk_and_ends_the_transaction() -> None:
    echo = Echo()
    echo.queue_starts = False
    chunked(TRANSACTION + bdat(COMMANDS) + bdat(COMMANDS, True) + b"NOOP\r\n", 1, echo)
    assert echo.replies[-3:] == [replies.QQ_FAILURE, replies.MAIL_FIRST, replies.OK]


def test_hops_are_counted_over_the_borders_of_chunks() -> None:
    for size in (1, 5, 13):
        for text, is_refused in ((HOPS, True), (HOPS[13:], False), (b"\n" + HOPS, False)):
            chunks = b"".join(bdat(text[start : start + size]) for start in range(0, len(text), size))
            _, echo = chunked(TRANSACTION + chunks, maxerrors=0)
            assert (replies.TOO_MANY_HOPS in echo.replies) == is_refused


def test_refused_chunks_count_for_maxerrors() -> None:
    session, echo = chunked(bdat(b"QUIT\r\n") * 99, maxerrors=5)
    assert echo.replies[1:] == [replies.MAIL_FIRST] * 5 + [replies.TOO_MANY_ERRORS]
    assert session.status == 1


# Faults of other servers in 2026: what a failed BDAT leaves behind, chunks of a few bytes, the end of TLS.


def test_no_state_is_kept_after_a_failed_bdat() -> None:
    for failing in (b"BDAT x\r\n", bdat(b"x" * 50), bdat(b"x" * 50, True)):
        for between in (b"", b"RSET\r\n", b"EHLO x\r\n"):
            session, echo = chunked(TRANSACTION + failing + between, databytes=20)
            assert session.message is None or session.status is not None
            assert session.chunk is None
            assert session.envelope.sender is None or session.status is not None
            session.feed(b"DATA\r\n" + bdat(COMMANDS) + TRANSACTION + b"DATA\r\nok\r\n.\r\n")
            assert texts(echo) == ([b"ok\n"] if session.status is None else [])


def test_a_transaction_without_an_accepted_recipient_takes_no_chunk_of_the_next_one() -> None:
    refused = SENDER + b"RCPT TO:<u@evil.test>\r\n" + bdat(b"secret\r\n")
    _, echo = chunked(refused + TRANSACTION + bdat(b"ok\r\n", True))
    assert codes(echo) == "250 553 503 250 250 250"
    assert texts(echo) == [b"ok\n"]


@pytest.mark.parametrize("size", [1, 2, 10])
def test_tiny_chunks_give_the_message_of_one_chunk(size: int) -> None:
    text = b"Subject: x\r\n\r\n" + b"a\r\nb\nc\r" * 300 + b".\r\n"
    chunks = b"".join(bdat(text[start : start + size]) for start in range(0, len(text), size))
    _, echo = chunked(TRANSACTION + chunks + b"BDAT 0 LAST\r\n")
    assert texts(echo) == texts(chunked(TRANSACTION + bdat(text, True))[1])


def test_starttls_between_chunks_discards_the_message_and_what_was_sent_in_clear() -> None:
    session, echo = chunked(TRANSACTION + bdat(b"clear\r\n") + b"STARTTLS\r\n" + bdat(b"x", True), starttls=True)
    session.feed(bdat(COMMANDS, True) + TRANSACTION + bdat(b"ok\r\n", True))
    assert [line[:3] for line in echo.replies] == [b"503", b"250", b"250", b"250"]
    assert texts(echo) == [b"ok\n"]
    assert len(echo.discarded) == 1


def test_the_end_of_the_connection_within_or_between_chunks_queues_nothing() -> None:
    for data in (bdat(b"a\r\n"), bdat(b"a\r\n")[:-1], bdat(b"a\r\n", True)[:-1], bdat(b"a") + b"BDAT 3 LAST\r\n"):
        session, echo = chunked(TRANSACTION + data)
        session.finish(1, b"", b"gone")
        assert not echo.queued
        assert (len(echo.discarded), echo.decisions[-2][0]) == (1, b"aborted")


# Any mixture.


TEXT = st.lists(st.sampled_from([b"a", b".", b"\r\n", b"\n", b"\r", b"\r\n.\r\n", b"QUIT\r\n", b"\0"]), max_size=6).map(
    b"".join
)
PIECES = (
    TEXT.map(bdat)
    | TEXT.map(lambda text: bdat(text, True))
    | TEXT.map(lambda text: b"DATA\r\n" + text + b"\r\n.\r\n")
    | st.sampled_from(
        [TRANSACTION] * 3 + [b"RSET\r\n", b"DATA\r\n", b"BDAT 2", b"BDAT 9 LAST\r\n", b"BDAT x\r\n", b"\r\n"]
    )
)
MIXTURES = st.lists(PIECES, max_size=12).map(b"".join)
CHANGES = st.sampled_from([{}, {"databytes": 12}, {"refuse_bare_cr": True}, {"maxerrors": 2}])


@pytest.mark.slow
@given(MIXTURES, st.integers(1, 9), st.integers(0, 400), CHANGES)
@example(TRANSACTION + bdat(b"a\r") + bdat(b"\n", True), 1, 70, {})
@hypothesis_settings(max_examples=times(300))
def test_a_mixture_of_bdat_and_data_does_not_depend_on_how_it_is_split(
    data: bytes, size: int, position: int, changes: dict[str, object]
) -> None:
    whole, first = chunked(data, **changes)
    for parts, second in (
        chunked(data, size, **changes),
        chunked(data, 1, **changes),
        in_two(data, position, **changes),
    ):
        assert first.replies == second.replies
        assert first.queued == second.queued
        assert whole.status == parts.status


@pytest.mark.slow
@given(st.lists(TEXT, min_size=1, max_size=6), st.booleans())
@hypothesis_settings(max_examples=times(200))
def test_the_stored_text_is_the_sent_one_with_lf_as_its_line_ends(parts: list[bytes], marked: bool) -> None:
    chunks = [*map(bdat, parts[:-1]), *([bdat(parts[-1], True)] if marked else [bdat(parts[-1]), b"BDAT 0 LAST\r\n"])]
    session, echo = chunked(TRANSACTION + b"".join(chunks) + b"NOOP\r\n")
    text = b"".join(parts).replace(b"\r\n", b"\n")
    assert texts(echo) == [text if not text or text.endswith(b"\n") else text + b"\n"]
    assert (len(echo.replies), echo.replies[-1], session.status) == (4 + len(chunks), replies.OK, None)
