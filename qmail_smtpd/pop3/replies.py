"""The replies of qmail-popup and qmail-pop3d that are the same each time. A comment says which are not theirs."""

OK = b"+OK \r\n"
END = b".\r\n"


def error(text: bytes) -> bytes:
    return b"-ERR " + text + b"\r\n"


def capabilities(*own: bytes) -> bytes:
    """The answer to CAPA (RFC 2449): what both programs can do, and these. Not the originals'."""
    return OK + b"".join(name + b"\r\n" for name in (*own, b"TOP", b"UIDL", b"RESP-CODES", b"PIPELINING")) + END


SYNTAX = error(b"syntax error")
NO_MEMORY = error(b"out of memory")
LINE_TOO_LONG = error(b"line too long")  # ours: the originals' lines have no limit

NO_MAILDIR = error(b"this user has no $HOME/Maildir")
NOT_SCANNED = error(b"unable to scan $HOME/Maildir")
UNIMPLEMENTED = error(b"unimplemented")
FROM_ONE = error(b"messages are counted from 1")
NOT_THAT_MANY = error(b"not that many messages")
DELETED = error(b"already deleted")
NOT_OPENED = error(b"unable to open that message")
NOT_REMOVED = error(b"unable to unlink all deleted messages")
