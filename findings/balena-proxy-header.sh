#!/bin/sh
# The encoder of @balena/proxy-protocol-parser writes headers of version 2 with the command LOCAL and a length of 3072 bytes.
#
# For whom: programs that send PROXY protocol version 2 with it. A server that follows the specification has to wait for 3072
# bytes. It takes the client's first bytes for a part of the header, and then ignores the client's address.
# Package: @balena/proxy-protocol-parser 1.0.2 (npm).
# Behaviour: for a TCP client over IPv4, byte 13 must be 0x21 (version 2, PROXY) and bytes 15 and 16 the length 12 in network
# order, 00 0c (proxy-protocol.txt, 2.2). v2_encode() writes 0x20 (LOCAL: no client) and 0c 00. For IPv6 it is 24 00, which is
# 9216. v2_decode() of the same package reads neither the command nor the length, so it decodes these headers.
# Output seen:
#   IPv4: version and command 20, length 0c00 = 3072, address bytes 12
#   IPv6: version and command 20, length 2400 = 9216, address bytes 36
#   decoded by the package: 192.0.2.1
# Exit status: 0 as described, 1 changed, 2 cannot be run.
cannot() { echo "cannot be run: $1" >&2; exit 2; }
for program in npm node; do command -v $program >/dev/null || cannot "no $program"; done
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 2
npm install --silent --no-audit --no-fund @balena/proxy-protocol-parser@1.0.2 >install.log 2>&1 || cannot "$(tail -n 1 install.log)"

node - <<'END'
const {v2_encode, v2_decode} = require('@balena/proxy-protocol-parser');
const PREAMBLE = 16; // signature, version and command, family, length
const seen = {};
const clients = {
  IPv4: {remoteAddress: '192.0.2.1', localAddress: '198.51.100.7'},
  IPv6: {remoteAddress: '2001:db8::1', localAddress: '2001:db8::2'},
};
for (const [family, addresses] of Object.entries(clients)) {
  const header = v2_encode({remoteFamily: family, remotePort: 40000, localPort: 25, protocol: 'tcp', ...addresses});
  const command = header.subarray(12, 13).toString('hex');
  const length = header.subarray(14, PREAMBLE).toString('hex');
  const bytes = header.length - PREAMBLE;
  seen[family] = `version and command ${command}, length ${length} = ${header.readUInt16BE(14)}, address bytes ${bytes}`;
  console.log(`${family}: ${seen[family]}`);
}
const decoded = v2_decode(v2_encode({remoteFamily: 'IPv4', remotePort: 1, localPort: 2, ...clients.IPv4}), true).remoteAddress;
console.log(`decoded by the package: ${decoded}`);
const described = seen.IPv4 === 'version and command 20, length 0c00 = 3072, address bytes 12'
  && seen.IPv6 === 'version and command 20, length 2400 = 9216, address bytes 36' && decoded === '192.0.2.1';
process.exit(described ? 0 : 3);
END
case $? in 0) exit 0 ;; 3) echo "the behaviour has changed" >&2; exit 1 ;; *) exit 2 ;; esac
