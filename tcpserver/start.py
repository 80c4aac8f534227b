"""Where the lean server begins: cli.py execs a fresh interpreter on main().

In this order: listen, catch signals, load what only root may read, give up root, preload, say that we are ready, serve.
"""

import _signal as signal  # type: ignore[import-not-found]  # see serve
import os
import sys

from tcprules import strerr
from tcpserver import environ, inherited, listen, names, script
from tcpserver.admit import Door
from tcpserver.children import Children
from tcpserver.journal import Journal
from tcpserver.linger import Linger
from tcpserver.log import Lines
from tcpserver.serve import SIGNALS, Server
from tcpserver.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket as socket
    from types import FrameType
    from typing import NoReturn


def main() -> "NoReturn":
    """The lean server: the settings are the words of the command line."""
    settings = Settings.from_words(sys.argv[1:])
    given = inherited.environ()
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # who starts us in the background may have it ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        listener = listen.listener(settings, given)
        wake = wake_up()  # before anybody can see that we listen, and think that a signal will be answered
        listen.begin(listener, settings)
        # Before root is given up: descriptor 2 may be root's, and this Python may lie where only root may look.
        lines = lines_of(settings.log_format)
        journal = Journal(lines.lost)
        if settings.rules is not None:
            import cdblib  # noqa: F401  (lookup would load it for the first client)
        if settings.reuse > 1:
            import fcntl  # noqa: F401  (what is loaded each fork copies, and most servers have no pool)

            from tcpserver import worker  # noqa: F401
        listen.become_user(settings.uid, settings.gid, settings.groups)
        script.change_environment(environ.base(given))
        if settings.reuse > 1 and not may_return():
            settings.reuse = 1
            if settings.verbosity:
                journal.write(lines.warning(b"no --reuse: a process could not return to the current directory"))
        script.preload_all(settings.preload)
    except (listen.Unable, script.Unloadable) as error:
        if settings.verbosity:
            strerr.say("tcpserver: fatal: ", str(error))
        os._exit(strerr.TEMPORARY)
    if settings.ask_host or settings.local_name is None:
        names.prepare()
    children = Children(settings, journal, lines)
    door = Door(settings, children, Linger(), environ.base(given))
    server = Server(settings, listener, door, wake)
    ready(settings, listener, given.get(b"NOTIFY_SOCKET"))
    server.run()


def may_return() -> bool:
    """Could a program that changes its directory be put back into this one by the account that serves?"""
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


def wake_up() -> tuple[int, int]:
    """A pipe into which every signal that concerns us writes its number, from now on."""
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(ends[1], warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, noted)
    return ends


def noted(number: int, frame: "FrameType | None") -> None:
    """The signal's number is in the wake-up pipe; that is all a handler does."""


def lines_of(log_format: str) -> Lines:
    """The lines in the wanted format; JSON is loaded only where it is wanted."""
    if log_format != "json":
        return Lines()
    from tcpserver.log_json import JsonLines

    return JsonLines()


def ready(settings: Settings, listener: "socket.socket", manager: bytes | None) -> None:
    """Say that connections are taken from now on (-1, sd_notify), and leave descriptors 0 and 1 to the programs."""
    if settings.print_port:
        try:
            os.write(1, b"%d\n" % listener.getsockname()[1])
        except OSError:
            pass  # 0.88 does not look either
    if manager:
        listen.notify(manager, b"READY=1")
    empty = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(empty, descriptor)
    os.close(empty)
