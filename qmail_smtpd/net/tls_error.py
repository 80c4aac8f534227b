"""TlsUnavailable, which certificate.py and tls.py raise, and OpenSSL's reasons as text."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _ssl import SSLError


class TlsUnavailable(Exception):
    """TLS cannot be offered, through no fault of the client. `why` is one line for the log."""

    def __init__(self, why: bytes) -> None:
        self.why = why


def reason(error: "SSLError") -> bytes:
    """Return OpenSSL's reason in its own words, without its numbers and file names."""
    return (error.reason or "protocol error").lower().replace("_", " ").encode()
