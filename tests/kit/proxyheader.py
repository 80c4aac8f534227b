"""PROXY headers made by hand, in both versions, with TLVs and their CRC32C."""

import socket
import struct

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, UDP4, TCP6, UNIX = 0x00, 0x11, 0x12, 0x21, 0x31
AUTHORITY, CRC32C, UNIQUE_ID, SSL = 0x02, 0x03, 0x05, 0x20
NO_SUM = bytes(4)


def v1(client: str, server: str = "192.0.2.25", ports: tuple[int, int] = (40312, 25)) -> bytes:
    """Version 1, for a client of either family."""
    family = "TCP6" if ":" in client else "TCP4"
    return f"PROXY {family} {client} {server} {ports[0]} {ports[1]}\r\n".encode()


def v2(block: bytes, family: int = TCP4, command: int = PROXY) -> bytes:
    """Version 2 with any block after the fixed 16 bytes."""
    return SIGNATURE + bytes([command, family]) + struct.pack("!H", len(block)) + block


def ends(client: str, server: str, ports: tuple[int, int] = (40312, 25)) -> bytes:
    """The addresses and ports of version 2."""
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    return socket.inet_pton(family, client) + socket.inet_pton(family, server) + struct.pack("!HH", *ports)


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def crc32c(data: bytes) -> int:
    """RFC 3720, appendix B.4, bit by bit."""
    crc = 0xFFFFFFFF
    for octet in data:
        for bit in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if (crc ^ octet >> bit) & 1 else 0)
    return crc ^ 0xFFFFFFFF


def summed(header: bytes) -> bytes:
    """The header with its CRC32C in the first TLV of that kind, which holds four zeros."""
    at = header.index(tlv(CRC32C, NO_SUM)) + 3
    return header[:at] + struct.pack("!I", crc32c(header)) + header[at + 4 :]
