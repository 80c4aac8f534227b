#!/bin/sh
# fdm exits with 0 when it could not fetch mail: after a refused password, and when there is no server.
#
# For whom: cron jobs, scripts and service managers that look at fdm's exit code to notice that mail is no longer fetched.
# Package: fdm 1.9+git20181219-1+b2, with libtdb1 1.4.8-2 (Debian 12).
# Behaviour: fdm writes "fetching error. aborted" for the account and exits with 0, as after a fetch without new mail. Its exit
# code reports only errors of fdm itself (configuration, lock).
# Output seen:
#   wrong password: exit 0, a: unexpected data: -ERR wrong password | a: fetching error. aborted
#   no server: exit 0, a: connect: Connection refused | a: fetching error. aborted
#   empty mailbox: exit 0
#   broken configuration: exit 1
# Exit status: 0 as described, 1 changed, 2 cannot be run.
cannot() { echo "cannot be run: $1" >&2; exit 2; }
for program in apt-get dpkg python3 unshare; do command -v $program >/dev/null || cannot "no $program"; done
unshare -U --map-user=1000 --map-group=1000 true || cannot "no user namespaces (for root, fdm wants a user of its own)"
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 2
apt-get -qq download fdm=1.9+git20181219-1+b2 libtdb1=1.4.8-2 >download.log 2>&1 || cannot "$(tail -n 1 download.log)"
for package in *.deb; do dpkg -x "$package" . || cannot "$package"; done
LD_LIBRARY_PATH=$(dirname usr/lib/*/libtdb.so.1)
export LD_LIBRARY_PATH

python3 - <<'END'
import os, re, socket, socketserver, subprocess, sys, threading

replies = {b"USER": b"+OK", b"STAT": b"+OK 0 0", b"QUIT": b"+OK bye"}


class Mailbox(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"+OK ready\r\n")
        for line in self.rfile:
            self.wfile.write(replies.get(line[:4].strip().upper(), b"-ERR unknown") + b"\r\n")
            if line.startswith(b"QUIT"):
                break


def fetch(name, port, more=""):
    account = f'account "a" pop3 server "127.0.0.1" port {port} user "joe" pass "secret"\n'
    with open("fdm.conf", "w") as file:
        file.write(f'set lock-file "lock"\n{account}action "drop" drop\nmatch all action "drop"\n{more}')
    os.chmod("fdm.conf", 0o600)
    command = ["unshare", "-U", "--map-user=1000", "--map-group=1000", "usr/bin/fdm", "-f", "fdm.conf", "fetch"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
    errors = re.findall("^a: .*(?:data|connect|error).*$", done.stdout, re.MULTILINE)
    print(f"{name}: exit {done.returncode}" + (", " + " | ".join(errors) if errors else ""))
    return done.returncode, any("fetching error" in error for error in errors)


server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
unused = socket.create_server(("127.0.0.1", 0))
free = unused.getsockname()[1]
unused.close()
results = [fetch("wrong password", server.server_address[1], replies.update({b"PASS": b"-ERR wrong password"}) or "")]
results.append(fetch("no server", free))
results.append(fetch("empty mailbox", server.server_address[1], replies.update({b"PASS": b"+OK"}) or ""))
results.append(fetch("broken configuration", free, "nonsense\n"))
sys.exit(0 if results == [(0, True), (0, True), (0, False), (1, False)] else 3)
END
case $? in 0) exit 0 ;; 3) echo "the behaviour has changed" >&2; exit 1 ;; *) exit 2 ;; esac
