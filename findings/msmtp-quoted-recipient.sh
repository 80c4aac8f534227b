#!/bin/sh
# msmtp loses the whole local part of a recipient that is quoted, and reports success.
#
# For whom: everyone who gives recipients to msmtp that were not typed by hand, and takes exit code 0 for "sent".
# Package: msmtp 1.8.23-1 (Debian 12).
# Behaviour: "a b"@far.example is a valid address (RFC 5321, 4.1.2, Quoted-string). msmtp sends RCPT TO:<@far.example> for it,
# whether the address is on the command line or, with -t, in the field To. The same address as a sender (-f) is sent as it is.
# If the server takes the empty local part, msmtp exits with 0, and nothing says that the mail went elsewhere.
# Output seen:
#   command line: exit 0, MAIL FROM:<"a b"@near.example>, RCPT TO:<@far.example>
#   header, -t: exit 0, MAIL FROM:<"a b"@near.example>, RCPT TO:<@far.example>
#   without quotes: exit 0, MAIL FROM:<"a b"@near.example>, RCPT TO:<ab@far.example>
# Exit status: 0 as described, 1 changed, 2 cannot be run.
cannot() { echo "cannot be run: $1" >&2; exit 2; }
for program in apt-get dpkg python3; do command -v $program >/dev/null || cannot "no $program"; done
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 2
apt-get -qq download msmtp=1.8.23-1 >download.log 2>&1 && dpkg -x msmtp_*.deb . || cannot "$(tail -n 1 download.log)"
usr/bin/msmtp --version >/dev/null || cannot "msmtp does not start"

python3 - <<'END'
import socketserver, subprocess, sys, threading

seen = []


class Sink(socketserver.StreamRequestHandler):
    """An SMTP server that accepts everything and notes the commands."""

    def handle(self):
        self.wfile.write(b"220 sink.example\r\n")
        body = False
        for line in map(bytes.strip, self.rfile):
            if body and line != b".":
                continue
            if not body:
                seen.append(line.decode())
            body = line == b"DATA"
            self.wfile.write({b"DATA": b"354 go on\r\n", b"QUIT": b"221 bye\r\n"}.get(line, b"250 ok\r\n"))


server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Sink)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
run = ["usr/bin/msmtp", "-C", "/dev/null", "--host=127.0.0.1", "--tls=off", "--auth=off", "-f", '"a b"@near.example']
run.append(f"--port={server.server_address[1]}")


def send(name, arguments, to):
    seen.clear()
    code = subprocess.run(run + arguments, input=f"Subject: x\nTo: {to}\n\nhello\n".encode(), timeout=30).returncode
    envelope = [line for line in seen if line.startswith(("MAIL", "RCPT"))]
    print(f"{name}: exit {code}, {', '.join(envelope)}")
    return code == 0 and envelope


quoted = ['MAIL FROM:<"a b"@near.example>', "RCPT TO:<@far.example>"]
lost = [
    send("command line", ["--", '"a b"@far.example'], "u@far.example") == quoted,
    send("header, -t", ["-t"], '"a b"@far.example') == quoted,
]
plain = send("without quotes", ["--", "ab@far.example"], "u@far.example")
sys.exit(0 if all(lost) and plain and plain[1] == "RCPT TO:<ab@far.example>" else 3)
END
case $? in 0) exit 0 ;; 3) echo "the behaviour has changed" >&2; exit 1 ;; *) exit 2 ;; esac
