"""What tcprulescheck prints about one client: a verdict -> text, raw bytes and all, as 0.88's. Pure."""

from collections.abc import Iterable

from tcprules.lookup import Verdict, instructions
from tcprules.rules import BadLine, parse


def shown(verdict: Verdict) -> bytes:
    """The rule that matched, the variables, allow or deny: 0.88's output (tcprulescheck.c)."""
    text = b"default:\n" if verdict.key is None else b"rule %b:\n" % verdict.key
    for word in instructions(verdict.data):
        if word[:1] == b"D":
            return text + b"deny connection\n"
        if word[:1] == b"+":
            text += b"set environment variable %b\n" % word[1:]
    return text + b"allow connection\n"


def explained(verdict: Verdict) -> bytes:
    """The keys that were tried, in order; `yes` is the one that has a rule."""
    missed = verdict.tried if verdict.key is None else verdict.tried[:-1]
    text = b"".join(b"try %b: no\n" % key for key in missed)
    return text if verdict.key is None else text + b"try %b: yes\n" % verdict.key


def traced(verdict: Verdict, file: bytes, lines: Iterable[bytes]) -> bytes:
    """The line of the rules file that made the rule. Raises BadLine when the file would not have come so far."""
    if verdict.key is None:
        return b""
    for number, line in enumerate(lines, 1):
        try:
            rule = parse(line)
        except BadLine as bad:
            bad.locate(number, line)
            raise
        if rule and verdict.key in rule.keys:
            other = b"" if rule.data == verdict.data else b"not any more: "
            return b"%bfrom %b, line %d: %b\n" % (other, file, number, line.rstrip(b"\n"))
    return b"not any more: no line of %b makes this rule\n" % file
