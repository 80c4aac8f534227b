"""XCLIENT: a proxy says which client it speaks for. The command's attributes and their syntax. Pure.

The format is that of Postfix's XCLIENT_README, and so are the codes of the replies.
"""

from qmail_smtpd.smtp import replies

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Attributes = dict[bytes, bytes | None]  # None: the proxy does not know the value

LOGIN = b"LOGIN"
ATTRIBUTES = (b"NAME", b"ADDR", b"PORT", b"PROTO", b"HELO", LOGIN, b"DESTADDR", b"DESTPORT")
WITHOUT_LOGIN = tuple(name for name in ATTRIBUTES if name != LOGIN)

LONGEST_VALUE = 255  # bytes before decoding: smtpd.c, xclient_cmd
LONGEST_ARGUMENT = 4096  # bytes: all attributes with the longest values, and below LINE_LIMIT, so that no line was cut
UNAVAILABLE, TEMPORARY = b"[UNAVAILABLE]", b"[TEMPUNAVAIL]"
IPV6 = b"IPV6:"
HIGHEST_PORT = 65535
LONGEST_LABEL = 63  # RFC 1035 section 2.3.4
LETTERS = b"abcdefghijklmnopqrstuvwxyz"
LABEL_BYTES = LETTERS + b"0123456789-_"
HEX = b"0123456789abcdefABCDEF"
PRINTABLE = bytes(byte if 0x20 <= byte < 0x7F else ord("?") for byte in range(256))
CONTROLS = bytes((*range(0x20), 0x7F))


class Malformed(Exception):
    """An attribute that is refused. `reply` says why."""

    def __init__(self, reply: bytes) -> None:
        super().__init__(reply)
        self.reply = reply


def parse(argument: bytes, allowed: tuple[bytes, ...], canonical: "Callable[[bytes], bytes | None]") -> "Attributes":
    """Return the attributes by their names in upper case. Raises Malformed; then none of them has an effect.

    `canonical` returns the canonical text of an address, None for other texts.
    """
    words = argument.replace(b"\t", b" ").split(b" ")
    if not argument.strip(b" \t") or len(argument) > LONGEST_ARGUMENT:
        raise Malformed(replies.XCLIENT_SYNTAX)
    attributes: Attributes = {}
    for word in filter(None, words):
        name, _, value = word.partition(b"=")
        name = name.upper()
        if not value or len(value) > LONGEST_VALUE:
            raise Malformed(replies.XCLIENT_SYNTAX)
        # A second value for an attribute is refused: nginx before 1.29.2 sends a user's name unencoded after ADDR, and
        # a blank in it would begin another attribute.
        if name not in allowed or name in attributes:
            raise Malformed(replies.XCLIENT_ATTRIBUTE)
        try:
            attributes[name] = check(name, decode(value), canonical)
        except ValueError:
            raise Malformed(replies.XCLIENT_VALUE % name) from None
    return attributes


def decode(text: bytes) -> bytes:
    """Return the text of an xtext (RFC 3461 section 4). A text that is none stands for itself, as in Postfix."""
    first, *rest = text.split(b"+")
    decoded = [first]
    for part in rest:
        if len(part) < 2 or part[:2].translate(None, HEX):
            return text
        decoded.append(bytes((int(part[:2], 16),)) + part[2:])
    return b"".join(decoded)


def check(name: bytes, value: bytes, canonical: "Callable[[bytes], bytes | None]") -> bytes | None:
    """Return the value in its canonical form, None if the proxy does not know it. Raises ValueError."""
    word = value.upper()
    if name == b"PROTO":
        return protocol(word)
    if word == UNAVAILABLE or (name == b"NAME" and word == TEMPORARY):
        return None
    if name in (b"ADDR", b"DESTADDR"):
        return address(value, canonical)
    return CHECKS[name](value)


def protocol(word: bytes) -> bytes:
    """Return SMTP or ESMTP."""
    if word not in (b"SMTP", b"ESMTP"):
        raise ValueError(word)
    return word


def address(value: bytes, canonical: "Callable[[bytes], bytes | None]") -> bytes:
    """Return a dotted quad, or the canonical text of an IPv6 address, which has the prefix `IPV6:` in the command."""
    ipv6 = value[: len(IPV6)].upper() == IPV6
    text = value[len(IPV6) :] if ipv6 else value
    result = canonical(text) if (b":" in text) == ipv6 else None
    if result is None:
        raise ValueError(value)
    return result


def host_name(value: bytes) -> bytes:
    """Return a host name in lower case. A name without a letter may be an address, and is refused."""
    name = value.lower()
    labels = name.split(b".")
    if any(label.strip(b"-") != label or not 0 < len(label) <= LONGEST_LABEL for label in labels):
        raise ValueError(value)
    if name.translate(None, LABEL_BYTES + b".") or name.translate(None, LETTERS) == name:
        raise ValueError(value)
    return name


def port(value: bytes) -> bytes:
    """Return a port's number without leading zeros."""
    if not value.isdigit() or len(value) > len(b"%d" % HIGHEST_PORT) or int(value) > HIGHEST_PORT:
        raise ValueError(value)
    return b"%d" % int(value)


def greeting_name(value: bytes) -> bytes:
    """Return the argument of HELO, with `?` for everything that cannot be printed."""
    return value.translate(PRINTABLE)


def user_name(value: bytes) -> bytes:
    """Return a user's name. `?` in place of a byte could make it another user's: it is refused instead."""
    if value.translate(None, CONTROLS) != value:
        raise ValueError(value)
    return value


CHECKS: "dict[bytes, Callable[[bytes], bytes]]" = {
    b"NAME": host_name,
    b"PORT": port,
    b"HELO": greeting_name,
    LOGIN: user_name,
    b"DESTPORT": port,
}
