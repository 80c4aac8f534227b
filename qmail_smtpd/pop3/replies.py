"""The constant replies of qmail-popup and qmail-pop3d. They are the originals' unless a comment says otherwise."""

OK = b"+OK \r\n"
END = b".\r\n"


def error(text: bytes) -> bytes:
    return b"-ERR " + text + b"\r\n"


def mechanisms(*names: bytes) -> bytes:
    """Return the reply to AUTH without an argument, which is older than CAPA."""
    return OK + b"".join(name + b"\r\n" for name in names) + END


def capabilities(*own: bytes) -> bytes:
    """Return the reply to CAPA (RFC 2449): the capabilities of both programs, and `own`. The originals have no CAPA."""
    return OK + b"".join(name + b"\r\n" for name in (*own, b"TOP", b"UIDL", b"RESP-CODES", b"PIPELINING")) + END


SYNTAX = error(b"syntax error")
NO_MEMORY = error(b"out of memory")
LINE_TOO_LONG = error(b"line too long")  # ours: the originals do not limit lines

USAGE = error(b"usage: popup hostname subprogram")
AUTHORIZE_FIRST = error(b"authorization first")
USER_FIRST = error(b"USER first")
AUTHORIZATION_FAILED = error(b"authorization failed")
# The originals' texts after an RFC 3206 code, which tells a client not to ask its user for another password.
CRASHED = error(b"[SYS/TEMP] aack, child crashed")
NO_PIPE = error(b"[SYS/TEMP] unable to open pipe")
NO_FORK = error(b"[SYS/TEMP] unable to fork")
NO_DESCRIPTORS = error(b"[SYS/TEMP] out of descriptors")  # ours
# Ours: the original replies "authorization failed" in the first case, and has no TLS.
NOT_CHECKED = error(b"[SYS/TEMP] unable to check the password")
NOT_SERVED = error(b"[SYS/TEMP] unable to serve the mailbox")
NO_MECHANISM = error(b"no such mechanism")
CANCELLED = error(b"authentication cancelled")
NO_PLAINTEXT = error(b"no plaintext login without TLS")

NO_MAILDIR = error(b"this user has no $HOME/Maildir")
NOT_SCANNED = error(b"unable to scan $HOME/Maildir")
UNIMPLEMENTED = error(b"unimplemented")
FROM_ONE = error(b"messages are counted from 1")
NOT_THAT_MANY = error(b"not that many messages")
DELETED = error(b"already deleted")
NOT_OPENED = error(b"unable to open that message")
NOT_REMOVED = error(b"unable to unlink all deleted messages")
