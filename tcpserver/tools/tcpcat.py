"""tcpcat: print what a server sends."""

from tcprules import strerr
from tcpserver.tools import connecting, filtering


def main() -> int:
    """Connect to the host and port of the command line, by default this host's port 17, and copy to the end."""
    try:
        connecting.connect_for(connecting.word(1, "0"), connecting.word(2, "17"))
    except connecting.Failed as failure:
        return failure.status
    filtering.die_by_sigpipe()
    try:
        filtering.copy(connecting.READ, 1, bytes)
    except OSError as error:
        strerr.die(1, "tcpcat: fatal: unable to copy: ", strerr.reason(error))  # cat(1) exits 1
    return 0
