"""The signals that end a process are delayed while it has a temporary file, so that no such file is left behind.

Does not know what the files are for. SIGKILL cannot be delayed.
"""

# The C module, which every interpreter has loaded: `signal` imports enum, which takes 3 ms.
import _signal  # type: ignore[import-not-found]
import os
from select import POLLIN, poll

from tcprules import strerr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

SIGNALS = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM)
LONGEST_WAIT = 200  # milliseconds
_mask: set[int] | None = None  # the signal mask before the outermost `delayed`, while its body runs


class Stopped(BaseException):
    """A signal that ends this process, after the clean-up. The argument is its number."""


def catch() -> None:
    """Make the signals raise Stopped, unless they are ignored. Only the first one does: none may end the clean-up."""
    for number in SIGNALS:
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, _stop)


def _stop(number: int, frame: object) -> "NoReturn":
    for other in SIGNALS:  # systemd sends TERM and HUP together
        _signal.signal(other, _already_stopping)
    raise Stopped(number)


def _already_stopping(number: int, frame: object) -> None:
    pass


def end_by(stopped: Stopped) -> "NoReturn":
    """End this process by the signal, as if it had not been caught."""
    (number,) = stopped.args
    _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, SIGNALS)
    os.kill(os.getpid(), number)
    os._exit(strerr.TEMPORARY)  # not reached


def delay() -> set[int]:
    """Delay the signals from now on. Return the signal mask to be restored."""
    mask: set[int] = _signal.pthread_sigmask(_signal.SIG_BLOCK, SIGNALS)
    return mask


class delayed:
    """`with delayed():` delivers the signals after its body. Bodies may be nested."""

    __slots__ = ("mask", "outermost")

    def __enter__(self) -> None:
        global _mask
        self.outermost = _mask is None
        self.mask = delay()
        if self.outermost:
            _mask = self.mask

    def __exit__(self, *_: object) -> None:
        global _mask
        if self.outermost:
            _mask = None
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self.mask)


def await_input(descriptor: int) -> None:
    """Wait until there is something to read. If the descriptor does not block, return at once.

    A signal that comes just before a system call does not interrupt it: Python calls the handler afterwards. So no
    single call waits for long.
    """
    poller = poll()
    poller.register(descriptor, POLLIN)
    while os.get_blocking(descriptor) and not poller.poll(LONGEST_WAIT):
        pass


class delivered:
    """`with delivered():` within `delayed` delivers the signals during its body, which may wait for long.

    The signals must raise Stopped there, unless the process has nothing to clean up.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        if _mask is not None:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, _mask)

    def __exit__(self, *_: object) -> None:
        if _mask is not None:
            delay()
