"""The console scripts of the tools (see tcprules/entry.py)."""

from tcprules.entry import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def addcr() -> "NoReturn":
    start("addcr", "tcpserver.tools.addcr")


def delcr() -> "NoReturn":
    start("delcr", "tcpserver.tools.delcr")


def fixcrio() -> "NoReturn":
    start("fixcrio", "tcpserver.tools.fixcrio")


def recordio() -> "NoReturn":
    start("recordio", "tcpserver.tools.recordio")


def argv0() -> "NoReturn":
    start("argv0", "tcpserver.tools.argv0")
