"""What qmail-smtpd.c does byte by byte: its DATA machine (blast) as a table, and its address parser (addrparse)."""

END, BARE_LF = "end", "bare LF"
LF, CR, DOT = b"\n\r."
# state -> byte -> (stored bytes, next state). None stands for every other byte. The states: 0 within a line, 1 after
# CRLF, 2 after CRLF and a dot, 3 after CRLF, a dot and a CR, 4 after CR.
TABLE: dict[int, dict[int | None, tuple[bytes, int | str]]] = {
    0: {LF: (b"", BARE_LF), CR: (b"", 4), None: (b"%c", 0)},
    1: {LF: (b"", BARE_LF), CR: (b"", 4), DOT: (b"", 2), None: (b"%c", 0)},
    2: {LF: (b"", BARE_LF), CR: (b"", 3), None: (b"%c", 0)},
    3: {LF: (b"", END), CR: (b".\r", 4), None: (b".\r%c", 0)},
    4: {LF: (b"\n", 1), CR: (b"\r", 4), None: (b"\r%c", 0)},
}


def machine(data: bytes) -> tuple[bytes, int | str, bytes, int]:
    """Return what the original stores, its final state, the unread bytes, and the number of hops."""
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
    """Return the address in the argument of MAIL or RCPT."""
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
