"""A name server for the tests, run as a separate program: answers PTR, A and TXT from a table on UDP, or never answers.

    nameserver.py ADDRESS '{"1.0.0.127.in-addr.arpa": ["PTR", "name"], "name": ["A", "127.0.0.1"]}'

With an empty table no query is answered. Prints a line when it is ready.
"""

import json
import socket
import struct
import sys

TYPES = {1: "A", 12: "PTR", 16: "TXT"}
NO_SUCH_NAME = 3


def encoded(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode("latin-1") for label in name.split(".")) + b"\0"


def text(value: str) -> bytes:
    """Return one string of a TXT record."""
    return bytes([len(value)]) + value.encode()


ENCODERS = {1: socket.inet_aton, 12: encoded, 16: text}


def question(query: bytes) -> tuple[str, int, int]:
    """Return the name in lower case, the type, and the end of the question."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("latin-1"))
        at += 1 + length
    return ".".join(labels).lower(), int.from_bytes(query[at + 1 : at + 3], "big"), at + 5


def reply(query: bytes, table: dict[str, list[str]]) -> bytes:
    name, kind, end = question(query)
    found = table.get(name, [])
    values = found[1:] if found and found[0] == TYPES.get(kind) else []
    records = b""
    for value in values:
        data = ENCODERS[kind](value)
        records += b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(data)) + data
    flags = 0x8580 | (0 if found else NO_SUCH_NAME)
    return query[:2] + struct.pack(">HHHHH", flags, 1, len(values), 0, 0) + query[12:end] + records


def main() -> None:
    table = json.loads(sys.argv[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        channel.bind((sys.argv[1], 53))
        print("listening", flush=True)
        while True:
            query, client = channel.recvfrom(512)
            if table:
                channel.sendto(reply(query, table), client)


if __name__ == "__main__":
    main()
