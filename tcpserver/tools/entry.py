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


def tcpclient() -> "NoReturn":
    start("tcpclient", "tcpserver.tools.tcpclient")


def mconnect() -> "NoReturn":
    start("mconnect", "tcpserver.tools.mconnect")


def mconnect_io() -> "NoReturn":
    start("mconnect-io", "tcpserver.tools.mconnect_io")


def tcpcat() -> "NoReturn":
    start("tcpcat", "tcpserver.tools.tcpcat")


def who() -> "NoReturn":
    start("who@", "tcpserver.tools.who")


def date() -> "NoReturn":
    start("date@", "tcpserver.tools.date")


def finger() -> "NoReturn":
    start("finger@", "tcpserver.tools.finger")


def http() -> "NoReturn":
    start("http@", "tcpserver.tools.http")


def rblsmtpd() -> "NoReturn":
    start("rblsmtpd", "tcpserver.tools.rblsmtpd")
