"""The certificates for the names that clients ask for (SNI, RFC 6066 section 3): control/servercerts/NAME/.

A folder has the same files as control/. The one for `*.example.org` is `_.example.org`. A process keeps the contexts
that it has built; each is built again when its files have changed.
"""

import os
from time import time

from qmail_smtpd.net import certificate
from qmail_smtpd.net.tls_error import TlsUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _ssl

    Kept = tuple[_ssl._SSLContext, tuple[certificate.FileIdentity, certificate.FileIdentity]]

FOLDER = b"control/servercerts"
LONGEST_NAME = 253  # bytes: RFC 1035 section 2.3.4, without the length of the root
LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789.-"  # so a name is one component of a path, and never a hidden file
WILDCARD = b"_."
MOST_KEPT = 100  # contexts, of some 50 kB each

kept: "dict[bytes, Kept]" = {}  # by folder


class Names:
    """The certificates of a home, for one handshake.

    `name` is what the client has asked for, empty if it is no host name; `trouble` says why a certificate cannot be
    used.
    """

    __slots__ = ("folder", "name", "trouble")

    def __init__(self, folder: bytes) -> None:
        self.folder = folder
        self.name = b""
        self.trouble = b""

    def context(self, name: str | None) -> "_ssl._SSLContext | None":
        """Return the context for the name, None if the default one is to be used."""
        self.name = host_name(name)
        for folder in candidates(self.name):
            path = self.folder + b"/" + folder
            if is_present(path):
                try:
                    return current(path)
                except TlsUnavailable as error:
                    self.trouble = error.why
                    return None
        return None


def find(home: bytes = b".") -> Names | None:
    """Return the certificates of the home, None if there is no folder for them."""
    folder = certificate.path_of(home, FOLDER)
    return Names(folder) if is_present(folder) else None


def is_present(path: bytes) -> bool:
    """Whether there is something at the path. True also if that cannot be determined."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def host_name(name: str | None) -> bytes:
    """Return the name in lower case, empty if it may not be used in a path."""
    text = (name or "").encode("ascii", "replace").lower()
    if len(text) > LONGEST_NAME or text.startswith(b".") or text.strip(LETTERS):
        return b""
    return text


def candidates(name: bytes) -> list[bytes]:
    """Return the folders that may have the certificate of a host name: its own, and that of the wildcard."""
    _, dot, domain = name.partition(b".")
    return ([name] if name else []) + ([WILDCARD + domain] if dot else [])


def current(folder: bytes) -> "_ssl._SSLContext":
    """Return a context for the folder's files as they are now, and keep it. Raises TlsUnavailable.

    OpenSSL takes the session tickets from the default context.
    """
    files = certificate.pair_of(folder)
    if folder in kept and kept[folder][1] == files:
        return kept[folder][0]
    made = certificate.build(folder, tickets=False)
    if time() - certificate.last_change(files) >= certificate.SETTLED:
        if len(kept) >= MOST_KEPT:
            del kept[next(iter(kept))]
        kept[folder] = made, files
    return made


def ineffective(home: bytes = b".") -> list[bytes]:
    """Return the folders that no name finds, sorted. Return none if they cannot be listed."""
    try:
        found = os.listdir(certificate.path_of(home, FOLDER))
    except OSError:
        return []
    return sorted(name for name in found if not is_effective(name.removeprefix(WILDCARD)))


def is_effective(name: bytes) -> bool:
    """Whether a client can ask for a folder of this name."""
    return name != b"" and host_name(name.decode("ascii", "replace")) == name
