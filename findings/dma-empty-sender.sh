#!/bin/sh
# dma -f '<>' sends MAIL FROM:<<>@host>, which is no address; the empty sender of a bounce cannot be given at all.
#
# For whom: programs that send bounces and other automatic mail through sendmail -f '<>', which sendmail, Postfix and Exim
# accept.
# Package: dma 0.13-1+b1 (Debian 12).
# Behaviour: dma takes the argument of -f as a name without a domain and appends its own host. -f '<>' becomes <<>@host>,
# and -f '' becomes <@host>. Neither is a path of RFC 5321, 4.1.2. A server that checks the syntax refuses the message; one
# that does not gets a bounce whose sender is not empty. An address with a domain is sent as it is.
# Output seen:
#   -f '<>': MAIL FROM:<<>@host.example>
#   -f '': MAIL FROM:<@host.example>
#   -f 'a@b.example': MAIL FROM:<a@b.example>
# Exit status: 0 as described, 1 changed, 2 cannot be run (dma finds its files only in /etc/dma and /var/spool/dma: the script
# puts its own files there in a mount namespace, for which it must be root).
cannot() { echo "cannot be run: $1" >&2; exit 2; }
for program in apt-get dpkg python3 unshare; do command -v $program >/dev/null || cannot "no $program"; done
[ "$(id -u)" = 0 ] || cannot "not root"
folder=$(mktemp -d) || exit 2
trap 'kill $server 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder" || exit 2
chmod 755 . # dma gives up root
apt-get -qq -o APT::Sandbox::User=root download dma=0.13-1+b1 >download.log 2>&1 && dpkg -x dma_*.deb . ||
    cannot "$(tail -n 1 download.log)"
mkdir -p spool/dma
cp /etc/passwd /etc/group /etc/nsswitch.conf /etc/hosts /etc/services etc 2>/dev/null
cp /etc/ld.so.cache /etc/localtime etc 2>/dev/null
chgrp mail spool/dma etc/dma && chmod 2775 spool/dma || cannot "no group mail"

cat >server.py <<'END'
import os, socket
listener = socket.create_server(("127.0.0.1", 0))
open("port.new", "w").write(str(listener.getsockname()[1]))
os.rename("port.new", "port")
while True:
    client, _ = listener.accept()
    client.sendall(b"220 server ESMTP\r\n")
    in_data = False
    for line in client.makefile("rb"):
        if line.startswith(b"MAIL"):
            print(line.decode().rstrip(), flush=True)
        in_data = line.startswith(b"DATA") or (in_data and line != b".\r\n")
        if line.startswith(b"DATA") or not in_data:
            client.sendall(b"354 go on\r\n" if in_data else b"250 ok\r\n")
    client.close()
END
python3 server.py >senders &
server=$!
tries=0
while [ ! -e port ]; do tries=$((tries + 1)); [ $tries -lt 100 ] || cannot "no server"; sleep 0.1; done
printf 'SMARTHOST 127.0.0.1\nPORT %s\nMAILNAME host.example\n' "$(cat port)" >etc/dma/dma.conf
chmod 644 etc/dma/dma.conf
changed=0
while read -r sender expected; do
    printf 'From: x@near.example\nTo: u@far.example\nSubject: x\n\nhello\n' |
        unshare --mount sh -c 'mount --bind etc /etc && mount --bind spool /var/spool || exit 99
            exec timeout 20 usr/sbin/dma -D -f "$1" u@far.example' sh "$(echo "$sender" | tr -d _)" || cannot "dma or unshare: $?"
    line=$(tail -n 1 senders)
    echo "-f '$(echo "$sender" | tr -d _)': $line"
    [ "$line" = "MAIL FROM:<$expected>" ] || changed=1
done <<'END'
<> <>@host.example
_ @host.example
a@b.example a@b.example
END
[ $changed = 0 ] || echo "the behaviour has changed" >&2
exit $changed
