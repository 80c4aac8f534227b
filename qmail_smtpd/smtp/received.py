"""The Received line that begins every message, byte for byte as received.c and date822fmt.c write it. Pure."""

SAFE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.@%+/=:-[]"  # received.c, issafe
FILTER = bytes(byte if byte in SAFE else ord("?") for byte in range(256))
MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")


def filtered(text: bytes) -> bytes:
    """Return the text with every byte that could have a meaning in a header replaced by `?`."""
    return text.translate(FILTER)


def date(year: int, month: int, day: int, hour: int, minute: int, second: int) -> bytes:
    """Return the date of a header. The arguments are UTC; the day has no leading zero, the zone is always -0000."""
    return b"%d %b %d %02d:%02d:%02d -0000" % (day, MONTHS[month - 1], year, hour, minute, second)


def protocol(cipher: bytes | None, user: bytes | None, utf8: bool = False) -> bytes:
    """Return what follows `with`: RFC 3848's word and the cipher, in the format of netqmail's current TLS patches.

    `utf8`: RFC 6531's word (section 4.3).
    """
    if utf8:
        return b"UTF8" + protocol(cipher, user).removeprefix(b"E")
    if cipher is None:
        return b"SMTP" if user is None else b"ESMTPA"  # never ESMTP: the original does not distinguish HELO and EHLO
    if user is None:
        return b"ESMTPS (" + cipher + b" encrypted)"
    return b"ESMTPSA (" + cipher + b" encrypted, authenticated)"


def received(
    remotehost: bytes,
    helo: bytes | None,
    remoteinfo: bytes | None,
    remoteip: bytes,
    local: bytes,
    protocol: bytes,
    when: bytes,
) -> bytes:
    """Return the two lines. `helo`: None if it repeats `remotehost`; `remoteinfo`: None if its variable is unset."""
    hello = b"" if helo is None else b" (HELO " + filtered(helo) + b")"
    info = b"" if remoteinfo is None else filtered(remoteinfo) + b"@"
    client = filtered(remotehost) + hello + b" (" + info + filtered(remoteip) + b")"
    return b"Received: from " + client + b"\n  by " + filtered(local) + b" with " + protocol + b"; " + when + b"\n"
