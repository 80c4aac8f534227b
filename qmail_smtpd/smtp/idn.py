"""The two spellings of an internationalised domain: U-labels (UTF-8) and A-labels (xn--). Pure.

Needs the package idna (the extra `idn`). Without it, or for a domain that IDNA 2008 does not allow, there is only the
spelling that was given, so that a domain is never taken for another one.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

PREFIX = b"xn--"  # RFC 5890 section 2.3.2.1
LONGEST_DOMAIN = 255  # bytes: RFC 1035 section 2.3.4


def other_spelling(domain: bytes) -> bytes:
    """Return the domain with A-labels for U-labels, or with U-labels for A-labels; empty if it has no other spelling.

    Nothing is mapped: a full-width dot or an upper-case letter outside ASCII is an error, not another character.
    """
    if len(domain) > LONGEST_DOMAIN or (domain.isascii() and PREFIX not in domain.lower()):
        return b""
    try:
        import idna  # 15 ms, and only for such domains
    except ImportError:
        return b""
    convert = to_unicode if domain.isascii() else to_ascii
    try:
        labels = domain.lower().decode().split(".")
        if "" in labels:
            return b""
        return ".".join(convert(idna, label) for label in labels).encode()
    except UnicodeError:  # idna.IDNAError is one
        return b""


def other_spellings(domain: bytes) -> list[bytes]:
    """Return the spellings with A-labels alone and with U-labels alone, without that of the domain itself.

    A domain that mixes both kinds of labels has two others.
    """
    spelling = other_spelling(domain)
    return [other for other in (spelling, other_spelling(spelling)) if other not in (b"", domain.lower())]


def to_ascii(idna: "ModuleType", label: str) -> str:
    """Return a label as an A-label, unless it is ASCII. Raises UnicodeError."""
    return label if label.isascii() else idna.alabel(label).decode("ascii")


def to_unicode(idna: "ModuleType", label: str) -> str:
    """Return an A-label as a U-label, and any other label as it is. Raises UnicodeError."""
    return str(idna.ulabel(label)) if label.startswith(PREFIX.decode()) else label
