"""A signal at any moment leaves no temporary file, and the old content or the new: every program that writes one.

The moments are those at which Python runs a signal handler: after each call, and at the start of each function, of the
modules that handle the file.
"""

import dis
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest

from qmail_smtpd.auth import cli as users
from qmail_smtpd.probe.pagefile import PageFile
from qmail_smtpd.queue import maildir
from qmail_smtpd.recipients import newmrh, newvrt
from qmail_smtpd.relay import allow, clear
from tcprules import termination
from tcprules.cli import tcprules
from tcprules.termination import delayed, delivered
from tests.kit import forked
from tests.kit.support import times

MODULES = ("install", "termination", "tcprules/cli", "files", "directory", "opensmtp", "rebuild", "pagefile", "maildir")
MOMENTS = times(25)  # that are tried with each program
LOGIN = {b"USER": b"joe", b"TCPREMOTEIP": b"192.0.2.7", b"TCPLOCALPORT": b"110"}
ONLY_TERM = (signal.SIGTERM,)  # maildir-queue ignores the others, as qmail-queue does


class Program(NamedTuple):
    main: Callable[[], object]
    words: tuple[str, ...] = ()
    stdin: bytes = b""
    environ: dict[bytes, bytes] = {}  # noqa: RUF012
    before: dict[str, bytes] = {}  # noqa: RUF012  (the files that exist: path -> content)
    signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    exit: int = 0


def write_page() -> None:
    """Write a page as relaytest does: what it has measured before does not matter."""
    try:
        termination.catch()
        with PageFile("page.html") as file:
            file.write("new")
        os._exit(0)
    except termination.Stopped as stopped:
        termination.end_by(stopped)


def set_user() -> None:
    sys.stdin = open(0)  # pytest has replaced it
    users.edit(prog_name="checkusers", standalone_mode=False)
    os._exit(0)


def store_message() -> None:
    os.pwrite(1, b"Fs@example.com\0Tr@example.com\0\0", 0)  # the envelope
    maildir.main()


RULES = b"10.:allow\n:deny\n"
OPEN_SMTP = {"vpopmail/open-smtp": b'192.0.2.1:allow,RELAYCLIENT="",RBLSMTPD=""\t1\n', "etc/tcp.smtp": RULES}
STORE = {b"RELAY_STORE": b"open-smtp:%(here)b/vpopmail:%(here)b/etc/tcp.smtp"}
EXACT = {"r.cdb", "r", "users", "control/morercpthosts.cdb", "page.html"}  # contents without a time
PROGRAMS = {
    "tcprules": Program(tcprules, ("r.cdb", "r.tmp"), RULES),
    "tcprules replaces": Program(tcprules, ("r.cdb", "r.tmp"), RULES, before={"r.cdb": b"old"}),
    "tcprules x x": Program(tcprules, ("r", "r"), RULES, before={"r": b"old"}),
    "tcprules x x, no x": Program(tcprules, ("r", "r"), RULES),
    "tcprules fails": Program(tcprules, ("r.cdb", "r.tmp"), b"nonsense:\n", before={"r.cdb": b"old"}, exit=100),
    "checkusers": Program(
        set_user,
        ("--set", "joe", "--scheme", "PLAIN"),
        b"secret\n",
        {b"CHECKUSERS_FILE": b"%(here)b/users"},
        {"users": b"ann:{PLAIN}x\n"},
    ),
    "qmail-newmrh": Program(newmrh.main, environ={b"QMAILHOME": b"%(here)b"}, before={"control/morercpthosts": b"a\n"}),
    "qmail-newvrt": Program(newvrt.main, environ={b"QMAILHOME": b"%(here)b"}, before={"control/validrcptto": b"@a\n"}),
    "relay-allow": Program(allow.main, ("true",), environ={**LOGIN, b"RELAY_DIR": b"%(here)b"}),
    "relay-allow, open-smtp": Program(allow.main, ("true",), environ=LOGIN | STORE, before=OPEN_SMTP),
    "clearopensmtp": Program(clear.main, environ=STORE, before=OPEN_SMTP),
    "relaytest": Program(write_page),
    "maildir-queue": Program(
        store_message, stdin=b"x" * 300_000, environ={b"QUEUE_MAILDIR": b"%(here)b/Maildir"}, signals=ONLY_TERM
    ),
}


class Moments:
    """Trace the modules, and send this process a signal at one of their moments. `count` is the number of them all."""

    def __init__(self, moment: int, number: int) -> None:
        self.moment, self.number = moment, number
        self.count = 0

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.removesuffix(".py").endswith(MODULES):
            return None
        frame.f_trace_opcodes = True
        last = "RESUME"

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            if event == "opcode":
                if last == "RESUME" or last.startswith("CALL"):
                    self.count += 1
                    if self.count == self.moment:
                        os.kill(os.getpid(), self.number)
                last = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            return trace

        return trace


def run(program: Program, here: Path, moment: int = 0, number: int = 0) -> tuple[int, forked.Result]:
    """Run the program, and send it the signal at the moment. Also return the number of moments of a run to the end."""
    counted = here.parent / "counted"
    counted.write_text("0")
    moments = Moments(moment, number)

    def traced() -> None:
        end = os._exit

        def ending(status: int) -> None:
            sys.settrace(None)
            counted.write_text(str(moments.count))
            end(status)

        os._exit = ending  # type: ignore[assignment]
        os.execv = lambda *_: ending(0)  # type: ignore[assignment]
        sys.settrace(moments.trace)
        program.main()

    environ = {name: value.replace(b"%(here)b", bytes(here)) for name, value in program.environ.items()}
    path = {b"PATH": os.environb[b"PATH"]}
    result = forked.run(traced, ["program", *program.words], program.stdin, path | environ, here)
    return int(counted.read_text()), result


def prepare(program: Program, here: Path) -> Path:
    """Make the directory with the files that exist before."""
    for name in ("", "vpopmail", "etc", "control"):
        (here / name).mkdir(parents=True)
    for name, content in program.before.items():
        (here / name).write_bytes(content)
        (here / name).chmod(0o640)
    return here


def files(here: Path) -> dict[str, bytes]:
    """Return the files and their content. The name of a message is its own: its directory stands for it."""
    found = {path.relative_to(here): path.read_bytes() for path in here.rglob("*") if path.is_file()}
    return {str(path.parent if path.parts[0] == "Maildir" else path): content for path, content in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_temporary_file_is_left_and_no_content_is_partial(name: str, tmp_path: Path) -> None:
    program = PROGRAMS[name]
    whole = prepare(program, tmp_path / "whole")
    moments, undisturbed = run(program, whole)
    assert undisturbed.exit == program.exit, undisturbed
    contents: dict[str, set[bytes]] = {}
    for path, content in [*program.before.items(), *files(whole).items()]:
        contents.setdefault(path, set()).add(content)
    exits = Counter[int]()
    for index, moment in enumerate(range(1, moments + 1, max(1, moments // MOMENTS))):
        number = program.signals[index % len(program.signals)]
        here = prepare(program, tmp_path / str(moment))
        _, result = run(program, here, moment, number)
        assert result.exit in (-number, program.exit) or number == signal.SIGINT, (moment, number, result)
        left = files(here)
        assert left.keys() <= contents.keys(), (moment, number, result)
        assert all(left[path] in contents[path] for path in left if path in EXACT), (moment, number, result)
        exits[result.exit] += 1
    assert exits[-signal.SIGTERM] > 2, exits


# the mechanism


def mask() -> set[int]:
    return {int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}


def test_signals_are_delayed_by_the_outermost_body_and_let_in_by_delivered() -> None:
    before = mask()
    with delayed():
        assert mask() == before | set(termination.SIGNALS)
        with delayed():
            with delivered():
                assert mask() == before
            assert mask() == before | set(termination.SIGNALS)
        assert mask() == before | set(termination.SIGNALS)
    assert mask() == before
    with delivered():
        assert mask() == before


def test_what_was_blocked_before_stays_blocked() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with delayed(), delivered():
            assert signal.SIGTERM in mask()
        assert signal.SIGTERM in mask()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def test_only_the_first_signal_raises_and_an_ignored_one_does_not() -> None:
    def main() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        termination.catch()
        try:
            os.kill(os.getpid(), signal.SIGHUP)
            with delayed():
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
                os.write(1, b"delayed ")
        except termination.Stopped as stopped:
            os.kill(os.getpid(), signal.SIGTERM)
            os.write(1, b"cleaned up")
            termination.end_by(stopped)

    result = forked.run(main, ["program"])
    assert result.stdout == b"delayed cleaned up"
    assert result.exit in (-signal.SIGTERM, -signal.SIGINT)
