"""The argument of MAIL and RCPT -> the address, and what stands after its `>`. Pure.

As forgiving as notqmail's addrparse (qmail-smtpd.c): the words FROM: and TO: are not looked at, quotes and backslashes
are taken away, a missing `>` is no error. Whether the address may pass is policy's question.
"""

LONGEST = 899  # qmail-smtpd.c addrparse: `addr.len > 900` with the final NUL
BACKSLASH, QUOTE = b'\\"'


def parse(argument: bytes) -> tuple[bytes, bytes]:
    """Return the address, unquoted, and the text after the `>` that ended it (empty where none did)."""
    text, terminator = find_start(argument)
    if text.startswith(b"@"):  # a source route; without its colon everything is eaten, as in the original
        text = text.partition(b":")[2]
    if b"\\" in text or b'"' in text:
        address, rest = unquote(text, terminator[0])
    else:
        address, _, rest = text.partition(terminator)
    return address, rest if terminator == b">" else b""


def find_start(argument: bytes) -> tuple[bytes, bytes]:
    """Return the text from where the address begins, and the byte that will end it."""
    _, bracket, text = argument.partition(b"<")
    if bracket:
        return text, b">"
    return argument.partition(b":")[2].lstrip(b" "), b" "


def unquote(text: bytes, terminator: int) -> tuple[bytes, bytes]:
    """Copy up to the first terminator outside of quotes; a backslash keeps any byte, also inside of quotes."""
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
    """The four octets of an address whose domain is exactly `[d.d.d.d]`, each taken modulo 256 (ip.c, ip_scan)."""
    if not address.endswith(b"]"):
        return None
    _, at, domain = address.rpartition(b"@")
    if not at or not domain.startswith(b"["):
        return None
    numbers = domain[1:-1].split(b".")
    if len(numbers) != 4 or not all(number.isdigit() for number in numbers):
        return None
    return bytes(int(number[-8:]) % 256 for number in numbers)  # 256 divides 10**8: eight digits tell


def declared_size(parameters: bytes) -> bytes:
    """The digits of the last `SIZE=` among the parameters, without leading zeros; empty where there is none."""
    size = b""
    for word in parameters.split(b" "):
        name, _, digits = word.partition(b"=")
        if name.lower() == b"size" and digits.isdigit():
            size = digits.lstrip(b"0")
    return size


def exceeds(digits: bytes, limit: int) -> bool:
    """Whether the number is greater than `limit`. Digits of any length are compared without being converted first."""
    text = b"%d" % limit
    return (len(digits), digits) > (len(text), text)
