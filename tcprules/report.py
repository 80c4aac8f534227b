"""Format what tcprulescheck prints about one client. Like 0.88's output it contains raw bytes. Pure."""

from collections.abc import Iterable

from tcprules.lookup import Verdict, instructions
from tcprules.rules import BadLine, parse


def format_verdict(verdict: Verdict) -> bytes:
    """Return the rule that matched, the variables, and allow or deny: 0.88's output (tcprulescheck.c)."""
    text = b"default:\n" if verdict.key is None else b"rule %b:\n" % verdict.key
    for word in instructions(verdict.data):
        if word[:1] == b"D":
            return text + b"deny connection\n"
        if word[:1] == b"+":
            text += b"set environment variable %b\n" % word[1:]
    return text + b"allow connection\n"


def format_keys(verdict: Verdict, keys: Iterable[bytes]) -> bytes:
    """Return those of the client's keys that were tried. The one with a rule is marked `yes`, and ends the search."""
    text = b""
    for key in keys:
        if key == verdict.key:
            return text + b"try %b: yes\n" % key
        text += b"try %b: no\n" % key
    return text


def format_source(verdict: Verdict, file: bytes, lines: Iterable[bytes]) -> bytes:
    """Return the line of the rules file that defines the rule, or nothing if no rule matched.

    Raise BadLine for an invalid line before it.
    """
    for number, line in enumerate(lines, 1):
        try:
            rule = parse(line)
        except BadLine as bad:
            bad.locate(number, line)
            raise
        if rule and verdict.key in rule.keys:
            changed = b"" if rule.data == verdict.data else b"changed: "
            return b"%bfrom %b, line %d: %b\n" % (changed, file, number, line.rstrip(b"\n"))
    return b"changed: no line of %b makes this rule\n" % file if verdict.key is not None else b""
