"""Parse the argument of MAIL and RCPT into the address and the text after its `>`. Pure.

As forgiving as notqmail's addrparse (qmail-smtpd.c): the words FROM: and TO: are not checked, quotes and backslashes
are removed, and a missing `>` is no error. Whether the address is accepted is decided in policy.py.
"""

LONGEST = 899  # qmail-smtpd.c addrparse: `addr.len > 900` with the final NUL
BACKSLASH, QUOTE = b'\\"'
HEX = b"0123456789abcdefABCDEF"
MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 section 2.5.5.2


def parse(argument: bytes) -> tuple[bytes, bytes]:
    """Return the address, unquoted, and the text after the `>` that ended it (empty if there was no `>`)."""
    text, terminator = find_start(argument)
    if text.startswith(b"@"):  # a source route; if its colon is missing, nothing is left, as in the original
        text = text.partition(b":")[2]
    if b"\\" in text or b'"' in text:
        address, rest = unquote(text, terminator[0])
    else:
        address, _, rest = text.partition(terminator)
    return address, rest if terminator == b">" else b""


def find_start(argument: bytes) -> tuple[bytes, bytes]:
    """Return the text from the start of the address on, and the byte that will end the address."""
    _, bracket, text = argument.partition(b"<")
    if bracket:
        return text, b">"
    return argument.partition(b":")[2].lstrip(b" "), b" "


def unquote(text: bytes, terminator: int) -> tuple[bytes, bytes]:
    """Split at the first terminator outside quotes, and remove quotes and backslashes from the part before it.

    A backslash keeps the next byte as it is, inside quotes too.
    """
    address = bytearray()
    quoted = escaped = False
    for position, byte in enumerate(text):
        if escaped:
            address.append(byte)
            escaped = False
        elif byte == terminator and not quoted:
            return bytes(address), text[position + 1 :]
        elif byte == BACKSLASH:
            escaped = True
        elif byte == QUOTE:
            quoted = not quoted
        else:
            address.append(byte)
    return bytes(address), b""


def literal_octets(address: bytes) -> bytes | None:
    """Return the four octets, each modulo 256 (ip.c, ip_scan), if the domain is exactly `[d.d.d.d]`; else None."""
    if not address.endswith(b"]"):
        return None
    _, at, domain = address.rpartition(b"@")
    if not at or not domain.startswith(b"["):
        return None
    numbers = domain[1:-1].split(b".")
    if len(numbers) != 4 or not all(number.isdigit() for number in numbers):
        return None
    return bytes(int(number[-8:]) % 256 for number in numbers)  # 256 divides 10**8: the last eight digits are enough


def ipv6_literal_octets(address: bytes) -> bytes | None:
    """Return the octets if the domain is `[IPv6:...]` (RFC 5321 section 4.1.3), else None."""
    _, at, domain = address.rpartition(b"@")
    if not at or domain[:6].lower() != b"[ipv6:" or not domain.endswith(b"]"):
        return None
    return ipv6_octets(domain[6:-1])


def ipv6_octets(text: bytes) -> bytes | None:
    """Return the sixteen octets of an IPv6 address, the last four for a mapped IPv4 address, None for other text."""
    head, gap, tail = text.partition(b"::")
    before, after = groups(head, not gap), groups(tail, True)
    if before is None or after is None or (gap and len(before + after) > 14) or (not gap and len(before) != 16):
        return None
    octets = before + bytes(16 - len(before + after)) + after
    return octets.removeprefix(MAPPED)


def groups(text: bytes, is_end: bool) -> bytes | None:
    """Return the octets of hexadecimal groups, None for other text. At the end there may be an IPv4 address."""
    octets = b""
    words = text.split(b":") if text else []
    for place, word in enumerate(words):
        numbers = word.split(b".")
        if len(numbers) == 4 and is_end and place == len(words) - 1 and all(is_octet(number) for number in numbers):
            octets += bytes(map(int, numbers))
        elif 0 < len(word) <= 4 and not word.strip(HEX):
            octets += int(word, 16).to_bytes(2, "big")
        else:
            return None
    return octets


def is_octet(number: bytes) -> bool:
    """Whether the digits are a number up to 255."""
    return number.isdigit() and len(number) <= 3 and int(number) <= 255


def has_word(parameters: bytes, word: bytes) -> bool:
    """Whether the parameters have this word, given in lower case, without a value."""
    return word in parameters.lower().split(b" ")


def declared_size(parameters: bytes) -> bytes:
    """Return the digits of the last `SIZE=` parameter without leading zeros, empty if there is none."""
    size = b""
    for word in parameters.split(b" "):
        name, _, digits = word.partition(b"=")
        if name.lower() == b"size" and digits.isdigit():
            size = digits.lstrip(b"0")
    return size


def exceeds(digits: bytes, limit: int) -> bool:
    """Whether the number is greater than `limit`. Compares without conversion: the digits may be of any length."""
    text = b"%d" % limit
    return (len(digits), digits) > (len(text), text)
