"""What qmail-smtpd.c does, byte by byte: its DATA machine (blast) as a table, and its way to an address (addrparse)."""

END, BARE_LF = "end", "bare LF"
LF, CR, DOT = b"\n\r."
# state -> byte -> (what is stored, next state). 0: inside a line, 1: after CRLF, 2: after its dot, 3: after its dot and
# CR, 4: after CR. None stands for every other byte.
TABLE: dict[int, dict[int | None, tuple[bytes, int | str]]] = {
    0: {LF: (b"", BARE_LF), CR: (b"", 4), None: (b"%c", 0)},
    1: {LF: (b"", BARE_LF), CR: (b"", 4), DOT: (b"", 2), None: (b"%c", 0)},
    2: {LF: (b"", BARE_LF), CR: (b"", 3), None: (b"%c", 0)},
    3: {LF: (b"", END), CR: (b".\r", 4), None: (b".\r%c", 0)},
    4: {LF: (b"\n", 1), CR: (b"\r", 4), None: (b"\r%c", 0)},
}


def machine(data: bytes) -> tuple[bytes, int | str, bytes, int]:
    """What the original stores of the data, its state then, what it leaves unread, the hops it has counted."""
    stored, state, hops = b"", 1, 0
    line, in_header = b"", True
    for position, byte in enumerate(data):
        if in_header:
            line += bytes((byte,))
            hops += line.lower() in (b"received", b"delivered")
            in_header = line != b"\r\n"
            line = b"" if byte == LF else line
        text, following = TABLE[state].get(byte, TABLE[state][None])
        stored += text % byte if b"%" in text else text
        if isinstance(following, str):
            return stored, following, data[position + 1 :], hops
        state = following
    return stored, state, b"", hops


def address_of(argument: bytes) -> bytes:
    """The address in the argument of MAIL or RCPT."""
    rest = list(argument)
    stop = ord(">")
    if ord("<") in rest:
        while rest.pop(0) != ord("<"):
            pass
    else:
        stop = ord(" ")
        while rest and rest.pop(0) != ord(":"):
            pass
        while rest[:1] == [ord(" ")]:
            del rest[0]
    if rest[:1] == [ord("@")]:
        while rest and rest.pop(0) != ord(":"):
            pass
    address, escaped, quoted = b"", False, False
    for byte in rest:
        if byte == stop and not quoted and not escaped:
            break
        if not escaped and byte == ord('"'):
            quoted = not quoted
        elif escaped or byte != ord("\\"):
            address += bytes((byte,))
        escaped = byte == ord("\\") and not escaped
    return address
