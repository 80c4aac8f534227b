"""A name server with block lists for the tests, in threads: UDP and TCP on port 53 of an address of its own.

The table has for each name its records, {"A": ["127.0.0.2"], "TXT": ["text"]}, or one of the words below. Other names
do not exist. `asked` keeps the questions, as (name, kind), and `ports` where they came from by UDP. With `lost` so many
packets get no answer before the first one that does.
"""

import socket
import struct
import threading
from typing import Any

TYPES = {1: "A", 16: "TXT"}
SILENT, REFUSED, BROKEN, GARBLED = "silent", "refused", "broken", "garbled"
NO_SUCH_NAME, SERVER_REFUSED = 3, 5
MOST_BY_UDP = 512  # RFC 1035, 4.2.1

Table = dict[str, Any]


class ListServer:
    """A running name server. `with ListServer(host, table) as server: server.asked`."""

    def __init__(self, host: str, table: Table, lost: int = 0) -> None:
        self.host, self.table, self.lost = host, table, lost
        self.asked: list[tuple[str, str]] = []
        self.ports: list[int] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.packets = socket.socket(family, socket.SOCK_DGRAM)
        self.packets.bind((host, 53))
        self.streams = socket.create_server((host, 53), family=family)
        self.threads = [threading.Thread(target=serve) for serve in (self.serve_packets, self.serve_streams)]

    def __enter__(self) -> "ListServer":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.streams.shutdown(socket.SHUT_RDWR)
        with socket.socket(self.packets.family, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (self.host, 53))
        for thread in self.threads:
            thread.join()
        self.streams.close()
        self.packets.close()

    def serve_packets(self) -> None:
        while True:
            query, client = self.packets.recvfrom(4096)
            if not query:
                return
            self.ports.append(client[1])
            if len(self.ports) <= self.lost:
                continue
            answer = self.reply(query)
            if answer and len(answer) > MOST_BY_UDP:
                answer = answer[:2] + bytes([answer[2] | 2]) + answer[3:6] + bytes(6) + query[12:]
            if answer:
                self.packets.sendto(answer, client)

    def serve_streams(self) -> None:
        while True:
            try:
                client, _ = self.streams.accept()
            except OSError:
                return
            with client, client.makefile("rb") as stream:
                query = stream.read(int.from_bytes(stream.read(2), "big"))
                answer = self.reply(query)
                if answer:
                    client.sendall(len(answer).to_bytes(2, "big") + answer)

    def reply(self, query: bytes) -> bytes | None:
        """The answer, or None for a name that is never answered."""
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode("latin-1"))
            at += 1 + length
        name, kind = ".".join(labels).lower(), TYPES.get(int.from_bytes(query[at + 1 : at + 3], "big"), "other")
        self.asked.append((name, kind))
        found = self.table.get(name)
        if found == SILENT or (isinstance(found, dict) and found.get(kind) == SILENT):
            return None
        if found == GARBLED:
            return query[:2] + b"\x85\x80\0\1\0\1\0\0\0\0" + query[12:] + b"\xc0"
        values = found.get(kind, []) if isinstance(found, dict) else []
        records = b"".join(record(kind, value) for value in values)
        code = (
            SERVER_REFUSED if found == REFUSED else 2 if found == BROKEN else 0 if found is not None else NO_SUCH_NAME
        )
        return query[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, len(values), 0, 0) + query[12:] + records


def record(kind: str, value: str) -> bytes:
    if kind == "A":
        data = socket.inet_aton(value)
    else:
        text = value.encode("latin-1")
        data = b"".join(bytes([len(text[at : at + 255])]) + text[at : at + 255] for at in range(0, len(text) or 1, 255))
    return b"\xc0\x0c" + struct.pack(">HHIH", {"A": 1, "TXT": 16}[kind], 1, 60, len(data)) + data
