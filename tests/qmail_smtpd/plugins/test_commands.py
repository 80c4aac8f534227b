"""control/smtpplugins, and the lines that a plugin writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.plugins.commands import LONGEST_REPLY, MOST_VARIABLES, Reader, warned
from qmail_smtpd.plugins.listing import parse, words
from qmail_smtpd.smtp.outcome import Outcome

BEFORE = {b"RELAYCLIENT": b"", b"TCPREMOTEIP": b"192.0.2.1", b"SMTPRCPTTO": b"u@ok.test", b"OLD": b"1"}
PROTECTED = [
    b"RELAYCLIENT",
    b"RELAY_USER",
    b"NORELAY",
    b"SMTPAUTH",
    b"SMTPAUTHFILE",
    b"SMTPAUTHUSER",
    b"SMTPS",
    b"TCPREMOTEIP",
    b"TCPREMOTEINFO",
    b"TCP6REMOTEIP",
    b"TLS_CIPHER",
    b"QMAILQUEUE",
    b"QMAILHOME",
    b"RCPTCHECK",
    b"XCLIENTRULES",
    b"CHECKUSERS_FILE",
]


def read(output: bytes, variable: bytes = b"SMTPRCPTTO") -> tuple[bool, Outcome, dict[bytes, bytes], list[bytes]]:
    """Return whether the next plugin is run, the outcome, the environment, and the warnings."""
    warned.clear()
    outcome, environ = Outcome(b"u@ok.test"), dict(BEFORE)
    reader = Reader(outcome, environ, variable, set())
    return reader.read(b"p", output), outcome, environ, reader.warnings


def test_the_file_has_sections_that_begin_with_their_first_letter() -> None:
    lines = [
        b"lost",
        b"[connection]",
        b"a",
        b"[rcpt]",
        b"b",
        b":c $X",
        b"[other]",
        b"lost",
        b"[r",
        b"d",
        b"[]",
        b"lost",
    ]
    assert parse(lines) == {b"connection": [b"a"], b"rcpt": [b"b", b":c $X", b"d"]}
    assert parse([b"[helo]", b"[mail]", b"[data]", b"[auth]"]) == {}


def test_a_colon_runs_a_shell_and_there_are_no_arguments() -> None:
    assert words(b"plugins/a b") == [b"plugins/a b"]
    assert words(b":a b | c") == [b"/bin/sh", b"-c", b"a b | c"]


@pytest.mark.parametrize(("line", "is_last"), [(b"N", False), (b"O", False), (b"A", True), (b"Nothing", False)])
def test_n_o_and_a_end_the_chain_and_decide_nothing(line: bytes, is_last: bool) -> None:
    go_on, outcome, environ, _ = read(line + b"\nE550 no\nSX=1\n")
    assert (go_on, outcome.ending, outcome.is_last, environ) == (False, b"", is_last, BEFORE)


@pytest.mark.parametrize(
    ("line", "ending", "reply"),
    [
        (b"E550 no", b"E", b"550 no"),
        (b"R421 bye", b"R", b"421 bye"),
        (b"D", b"D", b""),
        (b"E550 a\rb\0c\x7f", b"E", b"550 a?b?c?"),
        (b"E" + b"5" * 2000, b"E", b"5" * LONGEST_REPLY),
    ],
)
def test_e_r_and_d_end_the_command(line: bytes, ending: bytes, reply: bytes) -> None:
    go_on, outcome, _, _ = read(line + b"\nN\n")
    assert (go_on, outcome.ending, outcome.reply) == (False, ending, reply)
    assert outcome.facts[b"plugin"] == b"p"


def test_other_lines_are_obeyed_in_order() -> None:
    output = b"\nP250-a\nLRno\nLXno\nCv@ok.test\nHX-A: b\nH  c\nSX=1=2\nUOLD\nzzz\nP250-d\nunfinished"
    go_on, outcome, environ, warnings = read(output)
    assert go_on
    assert outcome.printed == [b"250-a", b"250-d"]
    assert outcome.later == [(b"R", b"no")]
    assert outcome.address == environ[b"SMTPRCPTTO"] == b"v@ok.test"
    assert outcome.headers == [b"X-A: b", b"  c"]
    assert environ == {b"RELAYCLIENT": b"", b"TCPREMOTEIP": b"192.0.2.1", b"SMTPRCPTTO": b"v@ok.test", b"X": b"1=2"}
    assert warnings == []


def test_c_has_no_effect_on_a_command_without_an_address() -> None:
    assert read(b"Cv@ok.test\n", b"")[1].address == b"u@ok.test"


@pytest.mark.parametrize("name", PROTECTED)
def test_s_and_u_cannot_change_what_decides_about_the_client(name: bytes) -> None:
    _, _, environ, warnings = read(b"S%b=x\nU%b\nS%b=y\n" % (name, name, name))
    assert environ == BEFORE
    assert warnings == [b"plugin p: it may not change " + name + b": ignored"]


@pytest.mark.parametrize("line", [b"S", b"S=x", b"SX", b"U", b"UX=", b"SA B=1", b"SA\xe9=1", b"C" + b"x" * 900])
def test_a_line_that_says_nothing_useful_has_no_effect(line: bytes) -> None:
    _, outcome, environ, _ = read(line + b"\n")
    assert (outcome.address, environ) == (b"u@ok.test", BEFORE)


@pytest.mark.parametrize("header", [b"", b" ", b"x", b" x", b": x", b"a b: c", b"X: " + b"y" * 1000])
def test_a_header_that_would_end_the_header_of_the_message_is_ignored(header: bytes) -> None:
    _, outcome, _, warnings = read(b"H" + header + b"\n")
    assert outcome.headers == []
    assert warnings == [b"plugin p: a header is not valid: ignored"]


def test_the_number_of_variables_is_limited() -> None:
    _, _, environ, warnings = read(b"".join(b"SV%d=x\n" % number for number in range(1000)))
    assert len(environ) == len(BEFORE) + MOST_VARIABLES
    assert warnings == [b"plugin p: too many variables: ignored"]


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([b"S" + name + b"=x" for name in PROTECTED]))))
def test_no_output_changes_a_protected_variable_or_splits_a_line(lines: list[bytes]) -> None:
    _, outcome, environ, _ = read(b"\n".join(lines) + b"\n")
    for name in PROTECTED:
        assert environ.get(name) == BEFORE.get(name)
    later = [text for _, text in outcome.later]
    texts = [outcome.reply, outcome.address, *outcome.printed, *outcome.headers, *later, *environ, *environ.values()]
    assert not [text for text in texts if {0, 10, 13} & set(text)]
