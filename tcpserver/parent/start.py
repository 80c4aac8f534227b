"""The start of the serving process: cli.py execs a fresh interpreter on main().

In this order: see whether there are enough descriptors, bind, catch signals, listen, load what only root may read, give
up root, preload, report readiness, serve.
"""

import _signal as signal  # type: ignore[import-not-found]  # see serve
import os
import sys

from tcprules import strerr
from tcpserver import environ, registry
from tcpserver.address.operands import Unable
from tcpserver.child import names
from tcpserver.log import Lines
from tcpserver.parent import hooks, inherited, listen
from tcpserver.parent.admission import Admission
from tcpserver.parent.children import Children
from tcpserver.parent.journal import Journal
from tcpserver.parent.linger import Linger
from tcpserver.parent.preload import Unloadable, preload_all
from tcpserver.parent.serve import SIGNALS, Server
from tcpserver.process import change_environment, set_title
from tcpserver.settings import Settings, octets

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    from types import FrameType
    from typing import NoReturn

# Descriptors that the start needs beside those it is given; measured: 9 with --proxy-from, -x and workers
FOR_EXEC, FOR_ALL = 5, 10


def main() -> "NoReturn":
    """Serve. The settings are the words of the command line (Settings.words)."""
    settings = Settings.from_words(sys.argv[1:])
    set_title(["tcpserver", *settings.command])
    given = inherited.environ()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        check_descriptors(FOR_ALL if settings.preload or settings.loadable or settings.proxy_from else FOR_EXEC)
        listener = listen.listener(settings, given)
        wake = wake_up_pipe()  # before the port is open: whoever sees it open may send a signal
        listen.begin(listener, settings)
        # Before root is given up: descriptor 2 may be root's, and this Python may be readable for root alone.
        lines = lines_of(settings.log_format)
        journal = Journal(lines.lost)
        load_modules(settings, environ.is_wiping(given))
        listen.become_user(settings.uid, settings.gid, settings.groups)
        change_environment(environ.base(given))
        load(settings, journal, lines)
    except (Unable, Unloadable) as error:
        if settings.verbosity:
            strerr.say("tcpserver: fatal: ", str(error))
        os._exit(strerr.TEMPORARY)
    if settings.ask_host or settings.local_name is None:
        names.warm_up()
    children = Children(settings, journal, lines)
    admission = Admission(settings, children, Linger(), environ.base(given))
    if settings.verbosity and settings.proxy_from:
        warn_of_whole_families(settings, journal, lines)
    server = Server(settings, listener, admission, wake)
    ready(settings, listener, given.get(b"NOTIFY_SOCKET"))
    if settings.rules is not None:  # after ready(), which need not wait for this
        from tcpserver.parent import gateways

        admission.via = gateways.look(settings, journal, lines)
    server.run()


def check_descriptors(needed: int) -> None:
    """Raises Unable if a limit leaves too few descriptors. Otherwise some later step would fail, an import perhaps."""
    opened: list[int] = []
    try:
        while len(opened) < needed:
            opened.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise Unable(f"unable to open {os.devnull}: {strerr.reason(error)}") from error
    finally:
        for descriptor in opened:
            os.close(descriptor)


def load_modules(settings: Settings, wiping_is_on: bool) -> None:
    """Load what the settings need beside this module's own imports. Nothing more: each fork copies what is loaded."""
    if settings.rules is not None:
        import cdblib  # noqa: F401  (lookup would load it for the first client)

        from tcpserver.parent import gateways  # noqa: F401
    if settings.proxy_from:
        from tcpserver.parent import proxied, proxy_networks  # noqa: F401  (for admission)
    if settings.preload or settings.loadable:
        import fcntl  # noqa: F401  (many servers have no workers)

        from tcpserver.child import worker  # noqa: F401
    if wiping_is_on:
        from tcpserver.parent import wiping

        registry.freed_memory_is_wiped[:] = [True] if wiping.works() else []


def load(settings: Settings, journal: Journal, lines: Lines) -> None:
    """Load the programs, and find out whether their processes can be reused. Raises Unloadable."""
    if not settings.verbosity:
        hooks.quiet.append(True)
    failures = preload_all(settings.preload, settings.loadable)
    reusable = any(program.is_reusable for program in registry.programs.values())
    if settings.reuse > 1 and reusable and not can_return():
        reusable = False
        if settings.reuse_asked:
            failures.append("no --reuse: a process could not return to the current directory")
    if not reusable:
        settings.reuse = 1
    for failure in failures if settings.verbosity else ():
        journal.write(lines.warning(failure.encode("utf-8", "backslashreplace")))


def warn_of_whole_families(settings: Settings, journal: Journal, lines: Lines) -> None:
    """Warn of networks in --proxy-from that are a whole family."""
    from tcpserver.parent import proxy_networks

    for text in settings.proxy_from:
        if proxy_networks.is_whole_family(octets(text)):
            journal.write(lines.warning(b"--proxy-from %b: every client may claim any address" % octets(text)))


def can_return() -> bool:
    """Whether the account that serves can change back into this directory after a program has left it."""
    try:
        here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.fchdir(here)
    except OSError:
        return False
    finally:
        os.close(here)
    return True


def wake_up_pipe() -> tuple[int, int]:
    """A pipe into which every signal that the server acts on writes its number, from now on."""
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(ends[1], warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, wake_only)
    return ends


def wake_only(number: int, frame: "FrameType | None") -> None:
    """Do nothing: Python has written the signal's number to the wake-up pipe."""


def lines_of(log_format: str) -> Lines:
    """The log lines in the wanted format. JSON is loaded only where it is wanted."""
    if log_format != "json":
        return Lines()
    from tcpserver.log_json import JsonLines

    return JsonLines()


def ready(settings: Settings, listener: "socket.socket", manager: bytes | None) -> None:
    """Report that connections are accepted from now on (-1, sd_notify); point descriptors 0 and 1 at /dev/null."""
    if settings.print_port:
        try:
            os.write(1, b"%d\n" % listener.getsockname()[1])
        except OSError:
            pass  # 0.88 ignores this error, too
    if manager:
        listen.notify(manager, b"READY=1")
    empty = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(empty, descriptor)
    os.close(empty)
