"""PARENT: the clients that are to have a forked child: all that have come by now, one fork after the other.

After each fork the parent copies every page of memory that it writes to, some 2 microseconds a page. So it does for the
whole batch what it has to do, and between two forks next to nothing.
"""

import os
from _signal import (  # type: ignore[import-not-found]  # see launch
    SIG_BLOCK,
    SIG_UNBLOCK,
    pthread_sigmask,
    set_wakeup_fd,
)

from tcpserver import hooks, launch, script
from tcpserver.children import Client
from tcpserver.environ import Edits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from tcpserver.script import Script

    Run = Callable[["Waiting"], NoReturn]


class Waiting:
    """A client that is let in, and its connection. `call` is the preloaded program, with its path, if that is known."""

    __slots__ = ("call", "client", "descriptor", "edits", "error", "key", "others", "pid")

    def __init__(self, client: Client, descriptor: int) -> None:
        self.client, self.descriptor = client, descriptor
        self.others = 0  # how many more are connected from where this client comes
        self.call: tuple[Script, bytes] | None = None
        self.key: bytes | None = None  # of the rule that let it in
        self.edits: Edits = []  # of the environment
        self.pid = 0
        self.error: OSError | None = None


class Batch:
    """The clients that wait for a fork, and what the parent prepares for them."""

    __slots__ = ("base", "signals", "stage", "waiting")

    def __init__(self, base: dict[bytes, bytes], signals: launch.Signals) -> None:
        self.base, self.signals = base, signals
        self.stage = script.Stage(base)
        self.waiting: list[Waiting] = []

    def start(self, mine: list[int], run: "Run") -> list[Waiting]:
        """Fork for everybody who waits, and return them, with pid or error. `run` is what each child does.

        `mine` are the parent's own descriptors; the children close them, and each other's connections.
        """
        batch, self.waiting = self.waiting, []
        hooks.before_fork(self.base)
        for one in batch:
            if one.call:
                self.stage.set(one.edits)
                one.edits = self.stage.left(one.edits)
        self.fork_each(batch, mine, run)
        return batch

    def fork_each(self, batch: list[Waiting], mine: list[int], run: "Run") -> None:
        """Fork, fork, fork. Signals wait: one for a child that still has the parent's handlers would be the parent's.

        What a child does stands outside of the parent's `try`: its errors must not be taken for fork's.
        """
        pthread_sigmask(SIG_BLOCK, self.signals.caught)
        for number, one in enumerate(batch):
            try:
                one.pid = os.fork()
            except OSError as error:
                one.error = error
            else:
                if not one.pid:
                    set_wakeup_fd(-1)
                    launch.default(self.signals.caught)
                    pthread_sigmask(SIG_UNBLOCK, self.signals.caught)
                    for descriptor in mine:
                        os.close(descriptor)
                    for other in batch[number + 1 :]:
                        os.close(other.descriptor)
                    run(one)
            os.close(one.descriptor)
        pthread_sigmask(SIG_UNBLOCK, self.signals.caught)
