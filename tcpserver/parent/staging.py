"""Set before the forks what a batch of clients has in common in its environment, so that no child has to.

A page of memory that a process writes to after a fork is copied, some 2 microseconds each, and Python writes to
whatever it reads (reference counts). What the parent has set, its children need not touch.
"""

from tcpserver.environ import Edits
from tcpserver.process import change_environment, put

EVER_NEW = (b"TCPREMOTEIP", b"TCPREMOTEPORT")  # set by the child alone: setenv(3) never frees a value that it has seen
NOT_STAGED = object()  # in place of a value


class Staging:
    """The parent's own environment: `base`, and the edits that are set already."""

    __slots__ = ("base", "staged")

    def __init__(self, base: dict[bytes, bytes]) -> None:
        self.base = base
        self.staged: dict[bytes, bytes | None] = {}
        change_environment(base)
        for name in EVER_NEW:
            put(name, b"")  # a child then finds a place for its value, and need not move the table

    def set(self, edits: Edits) -> None:
        """Make os.environ the base with these edits, except EVER_NEW."""
        wanted = {name: value for name, value in edits if name not in EVER_NEW}
        if wanted == self.staged:
            return
        for name in self.staged.keys() - wanted.keys():
            put(name, self.base.get(name))
        for name, value in wanted.items():
            put(name, value)
        self.staged = wanted

    def remaining(self, edits: Edits) -> Edits:
        """What a child still has to change for these edits to be complete."""
        wanted = dict(edits)
        absent = [(name, self.base.get(name)) for name in self.staged if name not in wanted]
        return absent + [(name, value) for name, value in wanted.items() if self.staged.get(name, NOT_STAGED) != value]
