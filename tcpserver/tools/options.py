"""The command line of a tool, by the rules of djb's sgetopt. Wrong words end the program (exit 100)."""

import os
import sys

from tcprules import strerr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

MAX_INT = 2**31 - 1
LONGEST_WAIT = 2_000_000  # seconds: poll(2) takes milliseconds as an int, and Python raises OverflowError for more
LONGEST_NUMBER = 20  # digits that are read: more than any bound has


class Options:
    """Iterates over (letter, argument) of the words; what is no option is in `operands` afterwards.

    `letters` are the options, each followed by `:` if it has an argument, as for getopt(3).
    """

    __slots__ = ("letters", "operands", "program", "usage_line")

    def __init__(self, program: str, letters: str, usage: str) -> None:
        self.program, self.letters = program, letters
        self.usage_line = f"{program}: usage: {program} {usage}"
        self.operands = sys.argv[1:]

    def __iter__(self) -> "Iterator[tuple[str, str]]":
        """Options end at the first word that does not begin with `-`, at `-`, and after `--` (sgetopt.c)."""
        words = self.operands
        while words and words[0][:1] == "-" and words[0] != "-":
            cluster = words.pop(0)[1:]
            if cluster[0] == "-":
                return
            while cluster:
                letter, cluster = cluster[0], cluster[1:]
                at = self.letters.find(letter)
                if at < 0 or letter == ":":
                    self.misuse("illegal option -- ", letter)
                if self.letters[at + 1 : at + 2] != ":":
                    yield letter, ""
                    continue
                if not cluster and not words:
                    self.misuse("option requires an argument -- ", letter)
                yield letter, cluster or words.pop(0)
                break

    def misuse(self, what: str, letter: str) -> "NoReturn":
        """Report a wrong option as sgetopt does, with the usage line."""
        name = os.path.basename(sys.argv[0]) or self.program
        strerr.say(name, ": ", what, os.fsencode(letter)[:1])  # sgetopt reads single bytes
        self.usage()

    def usage(self) -> "NoReturn":
        """Report how the program is called."""
        strerr.die(strerr.PERMANENT, self.usage_line)

    def number(self, letter: str, text: str, high: int = MAX_INT) -> int:
        """The argument of an option that is a whole number from 0 to `high`."""
        digits = text.lstrip("0")[:LONGEST_NUMBER] or "0"
        if not text.isascii() or not text.isdigit() or int(digits) > high:
            self.refuse(f"-{letter} needs a whole number from 0 to {high}: {text}")
        return int(digits)

    def refuse(self, text: str) -> "NoReturn":
        """Report that the command line makes no sense."""
        strerr.die(strerr.PERMANENT, f"{self.program}: fatal: {text}")
