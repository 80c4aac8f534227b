"""The PROXY protocol's header, versions 1 and 2 (haproxy's proxy-protocol.txt): bytes in, addresses out. Pure.

A header is judged when it is whole. Until then header_length() raises Invalid if it cannot become one.
"""

from tcprules.network import canonical, ipv4
from tcpserver.environ import Facts

MAX_V1 = 107  # proxy-protocol.txt 2.1: the longest line, with its CRLF
MAX_V2 = 8192  # bytes with TLVs: a client certificate has 1 to 4 kB. More is refused
V1 = b"PROXY "
V2 = b"\r\n\r\n\0\r\nQUIT\n"  # proxy-protocol.txt 2.2
V2_FIXED = 16  # bytes before the addresses: signature, version and command, family, length
VERSION_2 = 0x20
LOCAL, PROXY = 0, 1  # the commands
UNSPEC = 0x00
TCP4, TCP6 = 0x11, 0x21
UNIX = (0x31, 0x32)
ADDRESS_BYTES = {UNSPEC: 0, TCP4: 12, 0x12: 12, TCP6: 36, 0x22: 36, UNIX[0]: 216, UNIX[1]: 216}
MAX_PORT = 65535
PORT_DIGITS = 5
TLV_HEAD = 3  # bytes: type and length
CRC32C = 0x03  # PP2_TYPE_CRC32C
CRC_BYTES = 4
CASTAGNOLI = 0x82F63B78  # RFC 3720, appendix B.4: the polynomial of CRC32C, reflected


class Invalid(Exception):
    """The bytes are no PROXY header. The text says why, in our own words."""


def header_length(data: bytes) -> int:
    """The length of the header that begins with these bytes; 0 if there are too few of them. Raises Invalid."""
    if data.startswith(V2[: len(data)]):
        return length_v2(data)
    if data.startswith(V1[: len(data)]):
        return length_v1(data)
    raise Invalid("no PROXY header")


def length_v1(data: bytes) -> int:
    """The length of a line with its CRLF; 0 if the line has not ended."""
    end = data.find(b"\n", 0, MAX_V1) + 1
    if end and data[end - 2 : end] != b"\r\n":
        raise Invalid("LF without CR")
    if not end and len(data) >= MAX_V1:
        raise Invalid("line too long")
    return end


def length_v2(data: bytes) -> int:
    """The length of a binary header; 0 if its fixed part is not whole."""
    if len(data) < V2_FIXED:
        return 0
    if data[12] & 0xF0 != VERSION_2 or data[12] & 0x0F not in (LOCAL, PROXY):
        raise Invalid("unknown version or command")
    length = V2_FIXED + int.from_bytes(data[14:16], "big")
    if length > MAX_V2:
        raise Invalid("too long")
    return length


def parse(header: bytes) -> Facts | None:
    """Both ends of the client's connection, from one whole header. Raises Invalid.

    None: the header names no client (UNKNOWN, LOCAL, AF_UNSPEC, AF_UNIX).
    """
    return parse_v1(header) if header.startswith(V1) else parse_v2(header)


def parse_v1(line: bytes) -> Facts | None:
    """`PROXY TCP4 192.0.2.1 198.51.100.1 40312 25`. After UNKNOWN anything may follow."""
    words = line.removesuffix(b"\r\n").split(b" ")
    if words[1] == b"UNKNOWN":
        return None
    if len(words) != 6:
        raise Invalid("invalid line")
    convert = {b"TCP4": dotted_quad, b"TCP6": canonical}.get(words[1])
    if convert is None:
        raise Invalid("unknown protocol")
    source, destination = convert(words[2]), convert(words[3])
    if source is None or destination is None:
        raise Invalid("invalid address")
    return Facts(destination, port(words[5]), source, port(words[4]))


def dotted_quad(text: bytes) -> bytes | None:
    """The text itself where it is an IPv4 address, else None."""
    return None if ipv4(text) is None else text


def port(text: bytes) -> int:
    """A port in decimal digits, without leading zeros."""
    if not text.isdigit() or len(text) > PORT_DIGITS or int(text) > MAX_PORT or (text[:1] == b"0" and text != b"0"):
        raise Invalid("invalid port")
    return int(text)


def parse_v2(header: bytes) -> Facts | None:
    """The binary form: addresses by family, then TLVs."""
    local, family = header[12] & 0x0F == LOCAL, header[13]
    nameless = local or family == UNSPEC
    size = ADDRESS_BYTES.get(family)
    if not local and (size is None or len(header) < V2_FIXED + size):
        raise Invalid("invalid address")
    check_sum(header, V2_FIXED + (size or 0), nameless)
    if nameless or family in UNIX:
        return None
    if family == TCP4:
        ends = [b".".join([b"%d" % octet for octet in header[at : at + 4]]) for at in (16, 20)]
        return Facts(ends[1], number(header, 26), ends[0], number(header, 24))
    if family == TCP6:
        ends = [address6(header[at : at + 16]) for at in (16, 32)]
        return Facts(ends[1], number(header, 50), ends[0], number(header, 48))
    raise Invalid("unknown protocol")  # datagrams


def number(header: bytes, at: int) -> int:
    """A port in network byte order."""
    return int.from_bytes(header[at : at + 2], "big")


def address6(octets: bytes) -> bytes:
    """The canonical text of 16 octets; of an IPv4-mapped address the dotted quad."""
    found = canonical(octets.hex(":", 2).encode())
    assert found
    return found


def check_sum(header: bytes, start: int, nameless: bool) -> None:
    """Check the CRC32C TLV, if there is one. Raises Invalid if it is wrong, or if the TLVs are not whole.

    Without addresses the block may hold anything that is no TLV (proxy-protocol.txt 2.2: LOCAL, "discard").
    """
    found, whole = tlvs(header, start)
    sums = [(at, length) for kind, at, length in found if kind == CRC32C]
    if not whole and not nameless:
        raise Invalid("invalid TLV")
    if len(sums) > 1:  # each one costs a pass over the header
        raise Invalid("invalid TLV")
    for at, length in sums:
        # Over the header as it came, with zeros in place of the sum (proxy-protocol.txt 2.2.3)
        zeroed = header[:at] + bytes(CRC_BYTES) + header[at + CRC_BYTES :]
        if length != CRC_BYTES or crc32c(zeroed) != int.from_bytes(header[at : at + CRC_BYTES], "big"):
            raise Invalid("wrong CRC32C")


def tlvs(header: bytes, start: int) -> tuple[list[tuple[int, int, int]], bool]:
    """The type, the position and the length of each value from `start` on, and whether nothing else is left."""
    found = []
    while len(header) - start >= TLV_HEAD:
        value = start + TLV_HEAD
        length = int.from_bytes(header[start + 1 : value], "big")
        if value + length > len(header):
            break
        found.append((header[start], value, length))
        start = value + length
    return found, start >= len(header)


def crc32c(data: bytes) -> int:
    """RFC 3720, appendix B.4."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = crc >> 8 ^ TABLE[(crc ^ octet) & 0xFF]
    return crc ^ 0xFFFFFFFF


def remainder(octet: int) -> int:
    """The table's entry for one octet."""
    for _ in range(8):
        octet = octet >> 1 ^ (CASTAGNOLI if octet & 1 else 0)
    return octet


TABLE = [remainder(octet) for octet in range(256)]
