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

USAGE = error(b"usage: popup hostname subprogram")
AUTHORIZE_FIRST = error(b"authorization first")
USER_FIRST = error(b"USER first")
WRONG = error(b"authorization failed")
# The originals', with the code of RFC 3206 that tells a client not to ask its user for another password.
CRASHED = error(b"[SYS/TEMP] aack, child crashed")
NO_PIPE = error(b"[SYS/TEMP] unable to open pipe")
NO_FORK = error(b"[SYS/TEMP] unable to fork")
# Ours: the original says "authorization failed" to the first, and knows no TLS.
NOT_CHECKED = error(b"[SYS/TEMP] unable to check the password")
IN_CLEAR = error(b"no plaintext login without TLS")

NO_MAILDIR = error(b"this user has no $HOME/Maildir")
NOT_SCANNED = error(b"unable to scan $HOME/Maildir")
UNIMPLEMENTED = error(b"unimplemented")
FROM_ONE = error(b"messages are counted from 1")
NOT_THAT_MANY = error(b"not that many messages")
DELETED = error(b"already deleted")
NOT_OPENED = error(b"unable to open that message")
NOT_REMOVED = error(b"unable to unlink all deleted messages")
