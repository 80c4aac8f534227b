"""One address of an envelope -> one argument for sendmail, quoted by RFC 5321; many of them -> lists that exec takes.

Pure. An address without such an argument gets None: what a mailer would make of it is anybody's guess.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
ATOM = frozenset(LETTERS + b"!#$%&'*+-/=?^_`{|}~")  # RFC 5321 section 4.1.2 and RFC 5322 section 3.2.3
QUOTABLE = frozenset(range(32, 127))  # what may stand in a quoted string, as it is or behind a backslash
DOMAIN = frozenset(LETTERS + b"-._")  # RFC 5321's, and the underscore that some hosts have
LITERAL = frozenset(LETTERS + b"-.:")
BATCH = 65536  # bytes of arguments a call: half of what exec always grants to them and the environment (execve(2))
POINTER = 9  # bytes that an argument takes beside its text: a NUL and a pointer


def argument(address: bytes) -> bytes | None:
    """The address as sendmail reads it, as exactly one. An address without `@` is a user of the host."""
    local, at, domain = address.rpartition(b"@")
    if not at:
        local, domain = domain, b""
    elif not is_domain(domain):
        return None
    if not local or not QUOTABLE.issuperset(local):
        return None
    return quote(local) + at + domain


def is_domain(domain: bytes) -> bool:
    """Whether nothing in the domain could end the address: a comma there would begin another recipient."""
    if domain.startswith(b"[") and domain.endswith(b"]"):
        return len(domain) > 2 and LITERAL.issuperset(domain[1:-1])
    return len(domain) > 0 and DOMAIN.issuperset(domain)


def quote(local: bytes) -> bytes:
    """A dot-string as it is, anything else as a quoted string."""
    if all(atom and ATOM.issuperset(atom) for atom in local.split(b".")):
        return local
    return b'"' + local.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def batches(arguments: list[bytes]) -> "Iterator[list[bytes]]":
    """The arguments in their order, in lists that are small enough for one call."""
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
