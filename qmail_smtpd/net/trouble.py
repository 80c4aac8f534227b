"""Why there is no TLS: the error that certificate.py and tls.py raise, and OpenSSL's reasons in plain words."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _ssl import SSLError


class Trouble(Exception):
    """TLS is not available, and the client is not to blame. `why` is one line for the log."""

    def __init__(self, why: bytes) -> None:
        self.why = why


def reason(error: "SSLError") -> bytes:
    """OpenSSL's reason in its own words, without its numbers and file names."""
    return (error.reason or "protocol error").lower().replace("_", " ").encode()
