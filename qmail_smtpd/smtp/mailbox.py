"""Write an envelope address as RFC 5321 does, so that another mailer reads exactly this address. Pure.

An address that RFC 5321 cannot express becomes None, because mailers would read it in different ways.
"""

LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
ATOM = frozenset(LETTERS + b"!#$%&'*+-/=?^_`{|}~")  # RFC 5321 section 4.1.2 and RFC 5322 section 3.2.3
QUOTABLE = frozenset(range(32, 127))  # allowed in a quoted string, as it is or after a backslash
DOMAIN = frozenset(LETTERS + b"-._")  # RFC 5321's letters, and the underscore that some host names have
LITERAL = frozenset(LETTERS + b"-.:")


def mailbox(address: bytes) -> bytes | None:
    """Return the address with its local part quoted if necessary, None if it cannot be expressed.

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


def utf8_mailbox(address: bytes) -> bytes | None:
    """Return an address of UTF-8 (RFC 6531 section 3.3), None if it has a character with a meaning for a mailer.

    Letters, digits and combining marks beyond ASCII can occur anywhere; within ASCII only what needs no quotes.
    """
    local, at, domain = address.rpartition(b"@")
    try:
        text = address.decode()
    except UnicodeDecodeError:
        return None
    if not at or not all((char + "x").isidentifier() or ("x" + char).isidentifier() for char in text if char > "\x7f"):
        return None
    ascii_local, ascii_domain = (bytes(byte if byte < 128 else ord("x") for byte in part) for part in (local, domain))
    return address if quote(ascii_local) == ascii_local and DOMAIN.issuperset(ascii_domain) and domain else None
