"""The command lines of tcprules and tcprulescheck: arguments, descriptors, signals, progress, exit codes."""

import gc
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import click

from tcprules import check, strerr, termination
from tcprules.compile import BadLine, Unable, records, write_cdb
from tcprules.install import trying
from tcprules.lines import read_lines
from tcprules.lint import Lint

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

CHECK, STRICT, QUIET = "--check", "--strict", "--quiet"
CHECK_OPTIONS = ("--explain", "--source", "--dump", "--replay", "--against", "--audit")
USAGE = "tcprules: usage: tcprules rules.cdb rules.tmp"
CHECK_USAGE = "tcprulescheck: usage: tcprulescheck rules.cdb"
CHECK_OPTIONS_USAGE = (
    "tcprulescheck: usage: tcprulescheck "
    "[ --explain [ --source rules ] | --dump | --replay [ --against old.cdb ] | --audit ] rules.cdb"
)
PATIENCE = 1.0  # seconds of work after which a terminal shows progress


class Rejected(Exception):
    """There are warnings, and --strict was given."""


def tcprules() -> NoReturn:
    """Run tcprules."""
    gc.disable()  # there are no reference cycles, and the search for them costs as much as parsing a million records
    strerr.occupy_standard_descriptors()
    try:
        termination.catch()
        # The leading -- makes every word an operand, because options are recognised only at the start.
        os._exit(compile_rules.main(["--", *sys.argv[1:]], standalone_mode=False))
    except termination.Stopped as stopped:
        termination.end_by(stopped)


@click.command(add_help_option=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def compile_rules(words: tuple[str, ...]) -> int:
    """Compile the rules on descriptor 0."""
    mode = words[0] if words and words[0] in (CHECK, STRICT, QUIET) else ""
    files = [os.fsencode(word) for word in words[1 if mode else 0 :]]
    if mode != CHECK and len(files) < 2:
        strerr.die(strerr.PERMANENT, USAGE)
    lint = Lint()
    progress = Progress(mode != QUIET and os.isatty(2) and not os.isatty(0))
    try:
        status, fatal = _compile(mode, files, lint, progress)
    finally:
        progress.finish()
    if mode != QUIET:
        for text in lint.texts():
            strerr.say("tcprules: warning: ", text)
    if fatal:
        strerr.say("tcprules: fatal: ", fatal)
    return status


def _compile(mode: str, files: list[bytes], lint: Lint, progress: "Progress") -> tuple[int, bytes]:
    """Compile or check the rules. Return the exit status and the fatal message."""
    pairs = _check_records(records(_input(progress), lint), lint, mode)
    try:
        if mode == CHECK:
            for _ in pairs:
                pass
            return (1 if lint.count else 0), b""
        write_cdb(files[0], files[1], pairs, lint.file)
    except BadLine as bad:
        lint.bad(bad)
        return strerr.PERMANENT, b"unable to parse this line: " + bad.line
    except Rejected:
        return strerr.PERMANENT, b"warnings, and --strict: %b is unchanged" % files[0]
    except Unable as failure:
        return strerr.TEMPORARY, failure.text
    except MemoryError:
        return strerr.TEMPORARY, b"out of memory"
    return 0, b""


def _check_records(pairs: Iterator[tuple[bytes, bytes]], lint: Lint, mode: str) -> Iterator[tuple[bytes, bytes]]:
    yield from pairs
    lint.finish(want_default=mode == CHECK)
    if mode == STRICT and lint.count:
        raise Rejected


def _input(progress: "Progress") -> Iterator[bytes]:
    def read(descriptor: int, size: int) -> bytes:
        with termination.delivered():
            termination.await_input(descriptor)
            chunk = os.read(descriptor, size)
            progress.advance(len(chunk))
        return chunk

    with trying(b"read input"):
        yield from read_lines(0, read)


class Progress:
    """A progress bar on descriptor 2, shown only if the work takes long. `finish` restores the cursor."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._start = time.monotonic()
        self._done = 0
        self._bar: ProgressBar[None] | None = None

    def advance(self, count: int) -> None:
        """Count bytes that have been read, and update the bar."""
        self._done += count
        if not self._wanted or time.monotonic() - self._start < PATIENCE:
            return
        try:
            if not self._bar:
                status = os.fstat(0)
                size = status.st_size if stat.S_ISREG(status.st_mode) else None
                self._bar = click.progressbar((None for _ in ()), length=size, label="tcprules", file=sys.stderr)
                count = self._done
            self._bar.update(count)
        except OSError:  # the terminal is gone
            self._wanted = False

    def finish(self) -> None:
        """End the bar. Never raises: that would replace the exit code, or the signal that ends the process."""
        if not self._bar or not self._wanted:
            return
        try:
            self._bar.render_finish()
        except OSError:
            pass  # the terminal is gone


def tcprulescheck() -> NoReturn:
    """Run tcprulescheck."""
    strerr.occupy_standard_descriptors()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    words = sys.argv[1:]
    optional = any(word.partition("=")[0] in CHECK_OPTIONS for word in words)
    try:
        # In 0.88 the first word is always a file.
        os._exit(check_rules.main(words if optional else ["--", *words], standalone_mode=False))
    except click.UsageError:
        strerr.die(strerr.PERMANENT, CHECK_OPTIONS_USAGE if optional else CHECK_USAGE)


@click.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.option("--explain", is_flag=True)
@click.option("--source", type=click.UNPROCESSED)
@click.option("--dump", is_flag=True)
@click.option("--replay", is_flag=True)
@click.option("--against", type=click.UNPROCESSED)
@click.option("--audit", is_flag=True)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def check_rules(
    explain: bool,
    source: str | None,
    dump: bool,
    replay: bool,
    against: str | None,
    audit: bool,
    words: tuple[str, ...],
) -> int:
    """Print what a rules file decides about the client in the environment or those of a log, or print its rules."""
    words = words or ((os.fsdecode(check.DEFAULT_CDB),) if audit else ())
    if not words or explain + dump + replay + audit > 1 or (source and not explain) or (against and not replay):
        raise click.UsageError("")
    out = check.Output()
    file = os.fsencode(words[0])
    try:
        if audit:
            status = check.audit_relaying(file, out)
        elif dump:
            status = check.dump(file, out)
        elif replay:
            status = check.replay_input(file, _path(against), out)
        elif explain:
            status = check.explain(file, _path(source), out)
        else:
            return check.check(file, out)
        out.flush()
    except BadLine as bad:
        strerr.die(strerr.PERMANENT, "tcprulescheck: fatal: unable to parse this line: ", bad.line)
    except Unable as failure:
        strerr.die(strerr.TEMPORARY, "tcprulescheck: fatal: ", failure.text)
    return status


def _path(word: str | None) -> bytes | None:
    return None if word is None else os.fsencode(word)
