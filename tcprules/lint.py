"""Find rules that are legal but dead or dangerous, and warn with line and column. Pure: it prints nothing.

tcprules 0.88 accepts `10.0:deny` and `1.2.3.4 deny` without a message, and then denies no client.
"""

import re
from functools import lru_cache

from tcprules import exposure
from tcprules.exposure import RELAYCLIENT, relayclient_column
from tcprules.faults import BOM, NO_CLIENTS, address_faults
from tcprules.forms import OCTET, right_form
from tcprules.rules import ENDS, INSTRUCTION_CACHE_SIZE, BadLine, Rule, variables

WARNINGS_MAX = 20  # further ones are only counted
NUMBERS = (b"DATABYTES", b"MAXCONIP")  # variables that are numbers
DIGITS_SHOWN = 18
OPEN_RELAYS = {b"": b"every client", b"=": b"every client with a name"}  # key -> who may relay

# The first key and the instructions of nearly every rule match these, and need no further checks.
is_sound = re.compile(
    rb"%b\.(?:%b\.(?:%b\.(?:%b)?)?)?|=\.?(?!\d)[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|[0-9a-f]*:[0-9a-f:]*/?"
    % (OCTET, OCTET, OCTET, OCTET)
).fullmatch
is_plain = re.compile(rb'(?:allow|deny)|allow(?:,[A-Za-z_]\w*="[^"\0]*")+').fullmatch


class Lint:
    """Gets each line of a rules file, and collects the warnings."""

    __slots__ = ("_lines", "_relays", "_suspects", "_texts", "count")

    def __init__(self) -> None:
        self.count = 0
        self._texts: list[bytes] = []
        self._lines: dict[bytes, int] = {}  # key -> the first line that sets it
        self._relays: list[bytes] = []  # warnings about rules that let too many relay: other warnings do not hide them
        self._suspects: list[tuple[int, Rule]] = []  # rules that are judged when all lines are known

    def ignored(self, number: int, line: bytes) -> None:
        """Check a line without a rule: a comment, a blank line, or a mistake."""
        if line[:1] == b"#":
            return
        if number == 1 and line.startswith(BOM):
            self._warn(number, 1, b"a byte order mark: the line is ignored")
        elif line.strip() and not line.lstrip().startswith(b"#"):
            self._warn(number, len(line.rstrip()) + 1, b"no colon: the line is ignored")

    def rule(self, number: int, rule: Rule) -> None:
        """Check a line with a rule."""
        first = rule.keys[0] if rule.keys else b""
        if not is_sound(first) or (first is not rule.address and b"-" in rule.address) or first in NO_CLIENTS:
            self._check_address(number, rule)
        for column, text in _instruction_faults(rule.instructions):
            self._warn(number, len(rule.address) + 1 + column, text.encode())
        if RELAYCLIENT in rule.instructions and first not in NO_CLIENTS and exposure.is_suspect(rule):
            self._suspects.append((number, rule))
        lines = self._lines
        duplicates = 0
        for key in rule.keys:
            if key in lines:
                duplicates += 1
            else:
                lines[key] = number
        if duplicates:
            self._warn_duplicates(number, rule.keys, duplicates)

    def bad(self, bad: BadLine) -> None:
        """Add the fatal line, which is listed even after WARNINGS_MAX warnings."""
        ends = [end for end in map(bad.line.find, ENDS) if end >= 0]
        form = right_form(bad.line[: min(ends)]) if ends else b""
        why = bad.why.encode()
        self.count += 1
        self._texts.append(_at(bad.number, bad.column, why + b": write " + form if form and form not in why else why))

    def file(self, text: bytes) -> None:
        """Add a warning about the file as a whole."""
        self._add(b"file: " + text)

    def finish(self, want_default: bool) -> None:
        """Check the file as a whole, after its last line."""
        for number, rule in self._suspects:
            fault = exposure.fault(number, rule, self._lines)
            if fault:
                self._relays.append(_at(number, *fault))
        self.count += len(self._relays)
        if not self._lines:
            self.file(b"no rule: all clients are allowed")
        elif want_default and b"" not in self._lines:
            self.file(b"no default rule: all other clients are allowed")

    def texts(self) -> list[bytes]:
        """Return the warnings: at most WARNINGS_MAX about relaying, WARNINGS_MAX others, and how many are left out."""
        texts = self._texts + self._relays[:WARNINGS_MAX]
        hidden = self.count - len(texts)
        return texts + ([b"file: and %d more" % hidden] if hidden else [])

    def _check_address(self, number: int, rule: Rule) -> None:
        for column, text in address_faults(number, rule.address):
            self._warn(number, column, text.encode())
        clients = OPEN_RELAYS.get(rule.keys[0]) if rule.keys else None
        if clients and rule.instructions.startswith(b"allow"):
            column = relayclient_column(rule)
            if column:
                self._warn(number, column, b"an open relay: %b may relay" % clients)

    def _warn_duplicates(self, number: int, keys: list[bytes], duplicates: int) -> None:
        key = next(key for key in keys if self._lines[key] != number)
        more = b" (and %d more)" % (duplicates - 1) if duplicates > 1 else b""
        what = key or b"the default rule"
        self._warn(number, 1, b"%b%b is set by line %d, which wins" % (what, more, self._lines[key]))

    def _warn(self, number: int, column: int, text: bytes) -> None:
        self._add(_at(number, column, text))

    def _add(self, text: bytes) -> None:
        self.count += 1
        if len(self._texts) < WARNINGS_MAX:
            self._texts.append(text)


def _at(number: int, column: int, text: bytes) -> bytes:
    return b"line %d, column %d: %b" % (number, column, text)


@lru_cache(INSTRUCTION_CACHE_SIZE)
def _instruction_faults(instructions: bytes) -> tuple[tuple[int, str], ...]:
    """Return the faults as columns (from 1) within the instructions, and texts."""
    if is_plain(instructions) and not any(name in instructions for name in NUMBERS):
        return ()
    faults = []
    for column, name, value in variables(instructions):
        if instructions.startswith(b"deny"):
            return ((column, "variables after deny are never set"),)
        if not name:
            faults.append((column, "a variable without a name is never set"))
        elif b"\0" in name or b"\0" in value:
            faults.append((column, "a NUL in a variable ends it, and what follows is another instruction"))
        elif b"," in name:
            faults.append((column, "a comma in a variable's name: is a quote missing before it?"))
        elif b" " in name or b"\t" in name:
            faults.append((column, "a blank in a variable's name"))
        elif name in NUMBERS and not value.isdigit():
            faults.append((column, _number_fault(name, value)))
    return tuple(faults)


def _number_fault(name: bytes, value: bytes) -> str:
    digits = value[: len(value) - len(value.lstrip(b"0123456789"))][:DIGITS_SHOWN]
    meaning = f"using {int(digits)}" if digits and name == b"DATABYTES" else "no limit"
    return f"{name.decode()} has other characters than digits: {meaning}"
