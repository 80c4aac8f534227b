"""control/servercert.pem and serverkey.pem: are they right, is the context that is made of them known already?

A process that was exec'd builds a context when its client wants TLS. A parent that preloads keeps one for its children,
who see for themselves whether the files are still the same: a renewed certificate counts from the next connection.
OpenSSL (tls.py) is loaded where a context is made.
"""

import os
from time import time

from qmail_smtpd.net.trouble import Trouble as Trouble  # what context() raises

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _ssl
    from types import ModuleType

    Identity = tuple[tuple[int, int, int, int, int], ...]

CERTIFICATE = b"control/servercert.pem"  # netqmail's TLS patch: certificate, chain and key
KEY = b"control/serverkey.pem"  # the key, where it is not in that file
SECRET = b"PRIVATE KEY-----"
EVERYBODY = 0o006  # the mode's bits for others, to read and to write
SETTLED = 2.0  # seconds; a file changed later than this may change again within one tick of its time stamps
OLDEST = 86400.0  # seconds; with the context go its keys for session tickets, which open recorded TLS 1.2 sessions
NOWHERE = (0, 0, 0, 0, 0)


class Kept:
    """The context that a parent has ready for its children."""

    context: "_ssl._SSLContext | None" = None
    identity: "Identity" = ()
    built = 0.0  # seconds since 1970


def context(home: bytes = b".") -> "_ssl._SSLContext":
    """The context for the files of the home as they are now. Raises Trouble."""
    if Kept.context is not None and identity(home) == Kept.identity:
        return Kept.context
    return build(home)


def keep(home: bytes) -> None:
    """In a parent, before a fork: have the context ready. Why there is none, the children find out for themselves."""
    now = time()
    found = identity(home)
    if found == Kept.identity and now - Kept.built < OLDEST:
        return
    Kept.context, Kept.identity, Kept.built = None, (), now
    changed = max(max(file[3:]) for file in found) / 1e9
    try:
        load()
        if now - changed < SETTLED:
            return
        Kept.context = build(home)
    except Trouble:
        pass
    Kept.identity = found


def identity(home: bytes) -> "Identity":
    """What changes when one of the files does."""
    return look(at(home, CERTIFICATE)), look(at(home, KEY))


def at(home: bytes, name: bytes) -> bytes:
    """The path of a file, as it is to be read in the log, too."""
    return name if home == b"." else home + b"/" + name


def look(path: bytes) -> tuple[int, int, int, int, int]:
    """Device, inode, size, and two times in nanoseconds."""
    try:
        found = os.stat(path)
    except OSError:
        return NOWHERE
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def build(home: bytes) -> "_ssl._SSLContext":
    """Look into the files, so that what is wrong is said of the right one; then have OpenSSL read them."""
    certificate, key = at(home, CERTIFICATE), at(home, KEY)
    if not os.path.lexists(key):
        key = certificate
    check(certificate, b"-----BEGIN CERTIFICATE-----", b"certificate")
    check(key, SECRET, b"private key")
    made: _ssl._SSLContext = load().build(certificate, key)
    return made


def load() -> "ModuleType":
    """OpenSSL, which may lie where only root may look."""
    try:
        from qmail_smtpd.net import tls
    except ImportError as error:
        raise Trouble(b"unable to load OpenSSL: " + str(error).encode()) from error
    return tls


def check(path: bytes, mark: bytes, what: bytes) -> None:
    """Whether the file holds such a thing, and no key for everybody, be it one that is not used."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            found = os.fstat(descriptor)
            text = os.read(descriptor, found.st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        from tcprules.strerr import reason  # a table that a session without trouble does not need

        raise Trouble(b"unable to read " + path + b": " + reason(error).encode()) from error
    if mark not in text:
        raise Trouble(path + b" holds no " + what)
    if SECRET in text and found.st_mode & EVERYBODY:
        raise Trouble(path + b" holds the private key and is open to everybody")
