"""Convert envelope addresses into arguments for sendmail, quoted by RFC 5321, in lists short enough for exec.

Pure. An address that RFC 5321 cannot express becomes None, because mailers would read it in different ways.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
ATOM = frozenset(LETTERS + b"!#$%&'*+-/=?^_`{|}~")  # RFC 5321 section 4.1.2 and RFC 5322 section 3.2.3
QUOTABLE = frozenset(range(32, 127))  # allowed in a quoted string, as it is or after a backslash
DOMAIN = frozenset(LETTERS + b"-._")  # RFC 5321's letters, and the underscore that some host names have
LITERAL = frozenset(LETTERS + b"-.:")
BATCH = 65536  # bytes of arguments in one call: half of what execve(2) guarantees for arguments and environment
POINTER = 9  # bytes that an argument takes in addition to its text: a NUL and a pointer


def argument(address: bytes) -> bytes | None:
    """Return the address as an argument that sendmail reads as exactly one address, or None if there is none.

    An address without `@` is a local user.
    """
    local, at, domain = address.rpartition(b"@")
    if not at:
        local, domain = domain, b""
    elif not is_domain(domain):
        return None
    if not local or not QUOTABLE.issuperset(local):
        return None
    return quote(local) + at + domain


def is_domain(domain: bytes) -> bool:
    """Whether no character of the domain can end the address: a comma, for example, would begin another recipient."""
    if domain.startswith(b"[") and domain.endswith(b"]"):
        return len(domain) > 2 and LITERAL.issuperset(domain[1:-1])
    return len(domain) > 0 and DOMAIN.issuperset(domain)


def quote(local: bytes) -> bytes:
    """Return a dot-string unchanged, and any other local part as a quoted string."""
    if all(atom and ATOM.issuperset(atom) for atom in local.split(b".")):
        return local
    return b'"' + local.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def batches(arguments: list[bytes]) -> "Iterator[list[bytes]]":
    """Yield the arguments in their order, in lists short enough for one exec."""
    batch: list[bytes] = []
    size = 0
    for text in arguments:
        size += len(text) + POINTER
        if batch and size > BATCH:
            yield batch
            batch, size = [], len(text) + POINTER
        batch.append(text)
    if batch:
        yield batch
