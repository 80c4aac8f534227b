"""http@: print a page of another host (HTTP/1.0)."""

from tcpserver.tools import connecting, fetching
from tcpserver.tools.visible import BodyLines


def main() -> int:
    """Ask the host and port of the command line for its page, by default this host's port 80 for /."""
    host, page, port = connecting.word(1, "0"), connecting.word(2, ""), connecting.word(3, "80")
    return fetching.run(host, port, f"GET /{page} HTTP/1.0\nHost: {host}:{port}\n\n", BodyLines().feed)
