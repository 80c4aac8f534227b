"""mconnect: talk with an SMTP server."""

from tcpserver.tools import connecting, mconnect_io


def main() -> int:
    """Connect to the host and port of the command line, by default this host's port 25."""
    try:
        connecting.connect_for(connecting.word(1, "0"), connecting.word(2, "25"))
    except connecting.Failed as failure:
        return failure.status
    return mconnect_io.main()
