"""Check control/servercert.pem and serverkey.pem, and build or reuse the TLS context for them.

A process that was exec'd builds a context when its client requests TLS. A parent that preloads keeps one for its
children, who check whether the files are still the same: a renewed certificate takes effect with the next connection.
OpenSSL (tls.py) is loaded only when a context is built. names.py does the same for the certificates of other names.
"""

import errno
import os
from time import time

from qmail_smtpd import control
from qmail_smtpd.net.tls_error import TlsUnavailable as TlsUnavailable  # what context() raises
from qmail_smtpd.smtp.settings import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _ssl
    from types import ModuleType

    FileIdentity = tuple[int, int, int, int, int]

FOLDER = b"control"
CERTIFICATE = b"servercert.pem"  # netqmail's TLS patch: certificate, chain and key
KEY = b"serverkey.pem"  # the key, if it is not in that file
TICKETS = b"tlstickets"  # a control file: `off` if no session tickets are sent
KEY_MARK = b"PRIVATE KEY-----"
LARGEST = 1 << 20  # bytes of each of the two files: a certificate with its chain and key has less than 20,000
WORLD_ACCESS = 0o006  # the mode's bits for others, to read and to write
SETTLED = 2.0  # seconds; a file that was changed more recently may change again without a newer time stamp
OLDEST = 86400.0  # seconds; the context holds the session ticket keys, which decrypt recorded TLS 1.2 sessions
NO_FILE = (0, 0, 0, 0, 0)


class Cache:
    """The context that a parent keeps for its children. `prepared`: whether this process is such a child, or a parent.

    No other process sends session tickets: the keys of one that was exec'd are lost at its end.
    """

    prepared = False
    context: "_ssl._SSLContext | None" = None
    files: "tuple[FileIdentity, ...]" = ()
    built = 0.0  # seconds since 1970


def context(home: bytes = b".") -> "_ssl._SSLContext":
    """Return a context for the current files of the home, and keep it for this process's next client.

    Raises TlsUnavailable.
    """
    files = identities(home)
    if Cache.context is not None and files == Cache.files and time() - Cache.built < OLDEST:
        return Cache.context
    made = build(path_of(home, FOLDER), sends_tickets(home))
    if time() - last_change(files) >= SETTLED:
        Cache.context, Cache.files, Cache.built = made, files, time()
    return made


def prepare_context(home: bytes) -> None:
    """Build the context in a parent before it forks. On failure do nothing: the children will report the reason."""
    now = time()
    Cache.prepared = True
    files = identities(home)
    if files == Cache.files and now - Cache.built < OLDEST:
        return
    Cache.context, Cache.files, Cache.built = None, (), now
    try:
        load_tls()
        if now - last_change(files) < SETTLED:
            return
        Cache.context = build(path_of(home, FOLDER), sends_tickets(home))
    except TlsUnavailable:
        pass
    Cache.files = files


def identities(home: bytes) -> "tuple[FileIdentity, ...]":
    """Return a value that changes when one of the files changes."""
    folder = path_of(home, FOLDER)
    return (*pair_of(folder), identity(path_of(folder, TICKETS)))


def pair_of(folder: bytes) -> "tuple[FileIdentity, FileIdentity]":
    """Return a value that changes when the folder's certificate or key changes."""
    return identity(path_of(folder, CERTIFICATE)), identity(path_of(folder, KEY))


def sends_tickets(home: bytes) -> bool:
    """Whether clients get session tickets. Not if the file that may forbid them cannot be read."""
    if not Cache.prepared:
        return False
    try:
        content = control.read(TICKETS, home)
    except Unreadable:
        return False
    return content is None or control.first_line(content) != b"off"


def last_change(files: "tuple[FileIdentity, ...]") -> float:
    """Return when the files were changed last, in seconds since 1970."""
    return max(max(file[3:]) for file in files) / 1e9


def path_of(folder: bytes, name: bytes) -> bytes:
    """Return the path of a file or folder. Log lines use it too."""
    return name if folder == b"." else folder + b"/" + name


def identity(path: bytes) -> "FileIdentity":
    """Return device, inode, size, mtime and ctime, the times in nanoseconds; NO_FILE if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return NO_FILE
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def build(folder: bytes, tickets: bool) -> "_ssl._SSLContext":
    """Check the folder's files first, so that an error names the right one; then have OpenSSL read them."""
    certificate, key = path_of(folder, CERTIFICATE), path_of(folder, KEY)
    if not os.path.lexists(key):
        key = certificate
    check(certificate, b"-----BEGIN CERTIFICATE-----", b"certificate")
    check(key, KEY_MARK, b"private key")
    context: _ssl._SSLContext = load_tls().build(certificate, key, tickets)
    return context


def load_tls() -> "ModuleType":
    """Load OpenSSL. Raises TlsUnavailable, for example if only root can read its directory."""
    try:
        from qmail_smtpd.net import tls
    except ImportError as error:
        raise TlsUnavailable(b"unable to load OpenSSL: " + str(error).encode()) from error
    return tls


def check(path: bytes, mark: bytes, kind: bytes) -> None:
    """Check that the file contains `mark`, and no private key, used or not, that others can read or write."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if status.st_size > LARGEST:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            text = os.read(descriptor, status.st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        from tcprules.strerr import reason  # a table that is needed only for errors

        raise TlsUnavailable(b"unable to read " + path + b": " + reason(error).encode()) from error
    if mark not in text:
        raise TlsUnavailable(path + b" contains no " + kind)
    if KEY_MARK in text and status.st_mode & WORLD_ACCESS:
        raise TlsUnavailable(path + b" contains the private key and is world-readable or world-writable")
