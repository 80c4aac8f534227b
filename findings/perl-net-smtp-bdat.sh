#!/bin/sh
# Net::SMTP's bdat and bdatlast send nothing, and return true, where they cannot be used: the message is lost.
#
# For whom: everyone who sends a message in chunks (RFC 3030) with Perl's Net::SMTP, and checks what its methods return.
# Package: perl-modules-5.36 5.36.0-7+deb12u4 (Debian 12), which has Net::SMTP 3.14.
# Behaviour: the server offers CHUNKING. bdat and bdatlast use BDAT only if mail() was called with Bits => "binary" and the
# server also offers BINARYMIME, which is another extension. Otherwise they print a warning ("CHUNKING extension is not in
# use"), send no command, and return true: the value of carp. A script that checks every return value believes that the message
# was accepted.
# Output seen:
#   mail: 1, to: 1, bdat: 1, bdatlast: 1, quit: 1
#   the server got: EHLO MAIL RCPT QUIT
# Exit status: 0 as described, 1 changed, 2 cannot be run.
cannot() { echo "cannot be run: $1" >&2; exit 2; }
for program in apt-get dpkg perl python3; do command -v $program >/dev/null || cannot "no $program"; done
folder=$(mktemp -d) || exit 2
trap 'kill $server 2>/dev/null; rm -rf "$folder"' EXIT
cd "$folder" || exit 2
package=perl-modules-5.36
apt-get -qq download $package=5.36.0-7+deb12u4 >download.log 2>&1 && dpkg -x $package*.deb . || cannot "$(tail -n 1 download.log)"

cat >server.py <<'END'
import socket
listener = socket.create_server(("127.0.0.1", 0))
open("port.new", "w").write(str(listener.getsockname()[1]))
__import__("os").rename("port.new", "port")
client, _ = listener.accept()
client.sendall(b"220 server ESMTP\r\n")
for line in client.makefile("rb"):
    print(line[:4].decode(), flush=True)
    client.sendall(b"250-server\r\n250 CHUNKING\r\n" if line.startswith(b"EHLO") else b"250 ok\r\n")
END
python3 server.py >commands &
server=$!
tries=0
while [ ! -e port ]; do tries=$((tries + 1)); [ $tries -lt 100 ] || cannot "no server"; sleep 0.1; done
perl -I usr/share/perl/5.36.0 -MNet::SMTP -e '
    $INC{"Net/SMTP.pm"} =~ m{^usr/share} && $Net::SMTP::VERSION eq "3.14" or exit 2;
    my $smtp = Net::SMTP->new("127.0.0.1", Port => shift, Hello => "client", Timeout => 20) or exit 2;
    printf "mail: %s, to: %s, bdat: %s, bdatlast: %s, ", $smtp->mail("s\@near.example"), $smtp->to("u\@far.example"),
        $smtp->bdat("Subject: x\r\n\r\n"), $smtp->bdatlast("hello\r\n");
    printf "quit: %s\n", $smtp->quit;' "$(cat port)" >results 2>warnings || cannot "Net::SMTP 3.14 has failed: $(cat warnings)"
wait $server
cat results
echo "the server got: $(tr '\n' ' ' <commands)"
grep -qx 'mail: 1, to: 1, bdat: 1, bdatlast: 1, quit: 1' results && [ "$(tr '\n' ' ' <commands)" = "EHLO MAIL RCPT QUIT " ] ||
    { echo "the behaviour has changed" >&2; exit 1; }
