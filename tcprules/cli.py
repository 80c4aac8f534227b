"""The command lines of tcprules and tcprulescheck: words, descriptors, signals, exit codes."""

import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

import click

from tcprules import strerr
from tcprules.compile import BadLine, Unable, records, write_cdb
from tcprules.lint import Lint
from tcprules.lookup import instructions, judge, open_rules

CHUNK = 1 << 16
CHECK, STRICT, QUIET = "--check", "--strict", "--quiet"
DEFAULT_IP = b"0.0.0.0"  # tcprulescheck.c


class Stopped(BaseException):
    """A signal that ends this process, when it has cleaned up."""


class Rejected(Exception):
    """There are warnings, and --strict."""


def _stop(number: int, frame: object) -> NoReturn:
    raise Stopped(number)


def tcprules() -> NoReturn:
    """tcprules [ --strict | --quiet ] rules.cdb rules.tmp; tcprules --check."""
    _occupy_standard_descriptors()
    stoppers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    for number in stoppers:
        signal.signal(number, _stop)
    try:
        # The leading -- makes every word an operand: all options that there are count only as the first word.
        os._exit(compile_rules.main(["--", *sys.argv[1:]], standalone_mode=False))
    except Stopped as stopped:
        number = stopped.args[0]
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(strerr.TEMPORARY)


@click.command(add_help_option=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def compile_rules(words: tuple[str, ...]) -> int:
    """Compile the rules on descriptor 0."""
    mode = words[0] if words and words[0] in (CHECK, STRICT, QUIET) else ""
    files = [os.fsencode(word) for word in words[1 if mode else 0 :]]
    if mode != CHECK and len(files) < 2:
        strerr.die(strerr.PERMANENT, "tcprules: usage: tcprules rules.cdb rules.tmp")
    lint = Lint()
    status, fatal = _compile(mode, files, lint)
    if mode != QUIET:
        for text in lint.texts():
            _warn(text)
    if fatal:
        strerr.say("tcprules: fatal: ", fatal)
    return status


def _compile(mode: str, files: list[bytes], lint: Lint) -> tuple[int, bytes]:
    """The exit status, and what to say as fatal."""
    pairs = _judged(records(_input(), lint), lint, mode)
    try:
        if mode == CHECK:
            for _ in pairs:
                pass
            return (1 if lint.count else 0), b""
        write_cdb(files[0], files[1], pairs, _ignore if mode == QUIET else _warn)
    except BadLine as bad:
        lint.bad(bad)
        return strerr.PERMANENT, b"unable to parse this line: " + bad.line
    except Rejected:
        return strerr.PERMANENT, b"not installed, because of warnings and " + STRICT.encode()
    except Unable as failure:
        return strerr.TEMPORARY, failure.text
    except MemoryError:
        return strerr.TEMPORARY, b"out of memory"
    return 0, b""


def _judged(pairs: Iterator[tuple[bytes, bytes]], lint: Lint, mode: str) -> Iterator[tuple[bytes, bytes]]:
    yield from pairs
    lint.finish(want_default=mode == CHECK)
    if mode == STRICT and lint.count:
        raise Rejected


def _warn(text: bytes) -> None:
    strerr.say("tcprules: warning: ", text)


def _ignore(text: bytes) -> None:
    pass


def _occupy_standard_descriptors() -> None:
    """If descriptor 2 were closed, the cdb could get its number, and the warnings."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_WRONLY)  # reading it fails with EBADF, as a closed one does


def _input() -> Iterator[bytes]:
    """The lines of descriptor 0, without their LF. BufferedReader would take EAGAIN for the end of the rules."""
    parts: list[bytes] = []
    while True:
        try:
            chunk = os.read(0, CHUNK)
        except OSError as error:
            raise Unable(b"read input", strerr.reason(error)) from None
        if b"\n" in chunk:
            lines = b"".join([*parts, chunk]).split(b"\n")
            parts = [lines.pop()]
            yield from lines
        elif chunk:
            parts.append(chunk)
        else:
            break
    last = b"".join(parts)
    if last:
        yield last


def tcprulescheck() -> NoReturn:
    """tcprulescheck rules.cdb."""
    os._exit(check_rules.main(["--", *sys.argv[1:]], standalone_mode=False))


@click.command(add_help_option=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def check_rules(words: tuple[str, ...]) -> int:
    """Tell what a rules file says about the client in the environment."""
    if not words:
        strerr.die(strerr.PERMANENT, "tcprulescheck: usage: tcprulescheck rules.cdb")
    get = os.environb.get
    try:
        rules = open_rules(words[0])
        verdict = judge(rules, get(b"TCPREMOTEIP", DEFAULT_IP), get(b"TCPREMOTEHOST"), get(b"TCPREMOTEINFO"))
    except OSError as error:
        strerr.die(strerr.TEMPORARY, "tcprulescheck: fatal: unable to read ", words[0], ": ", strerr.reason(error))
    out = b"default:\n" if verdict.key is None else b"rule %b:\n" % verdict.key
    for text in instructions(verdict.data):
        if text[:1] == b"D":
            out += b"deny connection\n"
            break
        if text[:1] == b"+":
            out += b"set environment variable %b\n" % text[1:]
    else:
        out += b"allow connection\n"
    try:
        os.write(1, out)
    except OSError:
        pass  # as 0.88
    return 0
