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
