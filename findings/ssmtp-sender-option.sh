#!/bin/sh
# ssmtp ignores -f: the envelope's sender is the account's, or with FromLineOverride that of the field From.
#
# For whom: programs that call sendmail -f SENDER and rely on it: bounces (-f '<>'), mailing lists (VERP), forwarding.
# Package: ssmtp 2.64-11 (Debian 12).
# Behaviour: ssmtp accepts the option -f without an error, but does not use its address. A bounce, whose sender must be empty
# (RFC 5321, 4.5.5), goes out with a sender that can be answered; so two automatic systems can answer each other. The
# configuration has no way to make -f effective: FromLineOverride=YES makes the field From the envelope's sender, even if -f
# gives another one. The exit code is 0.
# Output seen (ACCOUNT is the name of the account that runs the script):
#   FromLineOverride=NO, -f <>: MAIL FROM:<ACCOUNT@near.example>
#   FromLineOverride=NO, -f bounces@lists.example: MAIL FROM:<ACCOUNT@near.example>
#   FromLineOverride=YES, -f <>: MAIL FROM:<author@near.example>
#   FromLineOverride=YES, -f bounces@lists.example: MAIL FROM:<author@near.example>
# Exit status: 0 as described, 1 changed, 2 cannot be run.
cannot() { echo "cannot be run: $1" >&2; exit 2; }
for program in apt-get dpkg python3; do command -v $program >/dev/null || cannot "no $program"; done
folder=$(mktemp -d) || exit 2
trap 'kill $server 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder" || exit 2
apt-get -qq download ssmtp=2.64-11 >download.log 2>&1 && dpkg -x ssmtp_*.deb . || cannot "$(tail -n 1 download.log)"

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
changed=0
for override in NO YES; do
    printf 'mailhub=127.0.0.1:%s\nhostname=near.example\nFromLineOverride=%s\n' "$(cat port)" $override >configuration
    for sender in '<>' bounces@lists.example; do
        printf 'From: author@near.example\nTo: u@far.example\nSubject: x\n\nhello\n' |
            timeout 20 usr/sbin/ssmtp -C "$folder/configuration" -f "$sender" u@far.example 2>errors || cannot "ssmtp: $(cat errors)"
        line=$(tail -n 1 senders)
        echo "FromLineOverride=$override, -f $sender: $line"
        [ $override = YES ] && expected=author || expected=$(id -un)
        [ "$line" = "MAIL FROM:<$expected@near.example>" ] || changed=1
    done
done
[ $changed = 0 ] || echo "the behaviour has changed" >&2
exit $changed
