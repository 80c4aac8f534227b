#!/bin/sh
# proxy-protocol-js hands out the TLVs of a PROXY header as if they were the first bytes of the client.
#
# For whom: servers that read version 2 with it and pass `data` on to their protocol. HAProxy adds TLVs with proxy-v2-options.
# Package: proxy-protocol-js 4.0.6 (npm).
# Behaviour: the header gives its length. Bytes behind the addresses, but within this length, are TLVs (proxy-protocol.txt,
# 2.2). The client's bytes begin after this length. V2ProxyProtocol.parse() checks the length, but cuts at the end of the
# addresses: `data` begins with the TLVs, and no field says where they end. build() with `data` is the counterpart: its length
# covers the addresses alone, so TLVs that are given as `data` reach every other reader as bytes of the client.
# Output seen:
#   parsed: data = 04000100 + EHLO
#   built with the TLV as data: length 12, bytes behind the preamble 16
# Exit status: 0 as described, 1 changed, 2 cannot be run.
cannot() { echo "cannot be run: $1" >&2; exit 2; }
for program in npm node; do command -v $program >/dev/null || cannot "no $program"; done
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 2
npm install --silent --no-audit --no-fund proxy-protocol-js@4.0.6 >install.log 2>&1 || cannot "$(tail -n 1 install.log)"

node - <<'END'
const {V2ProxyProtocol} = require('proxy-protocol-js');
const NOOP = Buffer.from('04000100', 'hex'); // a TLV of type NOOP with one byte, to be skipped
const preamble = Buffer.from('0d0a0d0a000d0a515549540a' + '2111' + '0010', 'hex'); // PROXY, TCP over IPv4, 16 bytes follow
const addresses = Buffer.from('c0000201' + 'c6336407' + '9c40' + '0019', 'hex'); // 192.0.2.1 198.51.100.7 40000 25
const parsed = V2ProxyProtocol.parse(Buffer.concat([preamble, addresses, NOOP, Buffer.from('EHLO')]));
const data = Buffer.from(parsed.data);
const tlv = data.subarray(0, NOOP.length).toString('hex'), rest = data.subarray(NOOP.length).toString();
console.log(`parsed: data = ${tlv} + ${rest}`);
const built = Buffer.from(new V2ProxyProtocol(parsed.command, parsed.transportProtocol, parsed.proxyAddress, NOOP).build());
const length = built.readUInt16BE(14), behind = built.length - preamble.length;
console.log(`built with the TLV as data: length ${length}, bytes behind the preamble ${behind}`);
process.exit(tlv === NOOP.toString('hex') && rest === 'EHLO' && length === 12 && behind === 16 ? 0 : 3);
END
case $? in 0) exit 0 ;; 3) echo "the behaviour has changed" >&2; exit 1 ;; *) exit 2 ;; esac
