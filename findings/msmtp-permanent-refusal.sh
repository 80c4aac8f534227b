#!/bin/sh
# msmtp's exit code says "permanent" for a 5xx reply to MAIL, RCPT or DATA, but not for one to the message itself.
#
# For whom: programs that run msmtp as sendmail, and decide by its exit code whether to try again (queues, cron wrappers,
# qmail-queue and pipe programs). After the dot of the message they cannot tell a 4xx from a 5xx: either they try again for ever
# after a 5xx (spam, size, policy), or they give up after a 4xx.
# Package: msmtp 1.8.23-1 (Debian 12). Its manual says only that the codes of sysexits.h are used.
# Behaviour: 4xx gives 69 (EX_UNAVAILABLE) at every step, never 75 (EX_TEMPFAIL). 5xx gives 65 (EX_DATAERR) for MAIL, RCPT and
# DATA, and 69 for the reply to the message. So 69 has both meanings, and only the text on standard error tells them apart.
# Output seen:
#   MAIL: 451 gives exit 69, 554 gives exit 65
#   RCPT: 451 gives exit 69, 554 gives exit 65
#   DATA: 451 gives exit 69, 554 gives exit 65
#   message: 451 gives exit 69, 554 gives exit 69
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

refuse = {}  # the step of the dialogue: the reply to it


class Refusing(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 sink.example\r\n")
        body = False
        for line in map(bytes.strip, self.rfile):
            if body and line != b".":
                continue
            step = "message" if body else line[:4].decode()
            reply = refuse.get(step, {"DATA": "354 go on", "QUIT": "221 bye"}.get(step, "250 ok"))
            body = reply.startswith("354")
            self.wfile.write(reply.encode() + b"\r\n")


server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusing)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
run = ["usr/bin/msmtp", "-C", "/dev/null", "--host=127.0.0.1", "--tls=off", "--auth=off", "-f", "s@near.example"]
run += [f"--port={server.server_address[1]}", "--", "u@far.example"]


def code(step, reply):
    refuse.clear()
    refuse[step] = reply
    return subprocess.run(run, input=b"Subject: x\n\nhello\n", stderr=subprocess.DEVNULL, timeout=30).returncode


codes = {step: (code(step, "451 4.3.0 later"), code(step, "554 5.7.1 never")) for step in ("MAIL", "RCPT", "DATA", "message")}
for step, (later, never) in codes.items():
    print(f"{step}: 451 gives exit {later}, 554 gives exit {never}")
sys.exit(0 if codes == dict.fromkeys(("MAIL", "RCPT", "DATA"), (69, 65)) | {"message": (69, 69)} else 3)
END
case $? in 0) exit 0 ;; 3) echo "the behaviour has changed" >&2; exit 1 ;; *) exit 2 ;; esac
