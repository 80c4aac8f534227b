#!/bin/sh
# The Python package proxy-protocol refuses a right CRC32C if the header's TLVs are not in the order of their numbers.
#
# For whom: servers that read PROXY protocol version 2 with it, behind a proxy that adds a checksum. HAProxy 2.6 with
# "proxy-v2-options authority,crc32c" writes the checksum (3) before the authority (2), and every connection is refused.
# Package: proxy-protocol 0.11.3 with the extra crc32c: crc32c 2.9.post0 (PyPI).
# Behaviour: the sum covers the whole header as it was sent, with zeros in the place of the sum (proxy-protocol.txt, 2.2.3),
# and TLVs may come in any order. The package sorts the TLVs by number before it computes the sum, so this is the sum of
# another header. Without the extra nothing is checked, and the same header is accepted.
# Output seen:
#   authority, checksum: accepted
#   checksum, authority: refused, ProxyProtocolChecksumError
# Exit status: 0 as described, 1 changed, 2 cannot be run.
cannot() { echo "cannot be run: $1" >&2; exit 2; }
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder" >"$folder/log" 2>&1 || cannot "no python3 with venv"
"$folder/bin/pip" install -q proxy-protocol==0.11.3 crc32c==2.9.post0 >"$folder/log" 2>&1 || cannot "$(tail -n 1 "$folder/log")"

"$folder/bin/python" - <<'END'
import ipaddress, struct, sys
from crc32c import crc32c
from proxyprotocol import ProxyProtocolChecksumError
from proxyprotocol.v2 import ProxyProtocolV2

AUTHORITY, CHECKSUM = 2, 3
ADDRESSES = ipaddress.ip_address("192.0.2.1").packed + ipaddress.ip_address("198.51.100.7").packed + struct.pack("!HH", 40000, 25)


def header(order):
    """A header of version 2 (PROXY, TCP over IPv4) with the two TLVs in this order, and the sum of its bytes."""

    def build(checksum):
        values = {AUTHORITY: b"mx.example.org", CHECKSUM: struct.pack("!L", checksum)}
        body = ADDRESSES + b"".join(struct.pack("!BH", kind, len(values[kind])) + values[kind] for kind in order)
        return b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack("!H", len(body)) + body

    return build(crc32c(build(0)))


def verdict(order):
    try:
        found = ProxyProtocolV2().unpack(header(order))
    except ProxyProtocolChecksumError as error:
        return f"refused, {type(error).__name__}"
    return "accepted" if str(found.source[0]) == "192.0.2.1" else "misread"


ascending, descending = verdict((AUTHORITY, CHECKSUM)), verdict((CHECKSUM, AUTHORITY))
print(f"authority, checksum: {ascending}")
print(f"checksum, authority: {descending}")
sys.exit(0 if (ascending, descending) == ("accepted", "refused, ProxyProtocolChecksumError") else 3)
END
case $? in 0) exit 0 ;; 3) echo "the behaviour has changed" >&2; exit 1 ;; *) exit 2 ;; esac
