#!/bin/sh
# policyd-rate-limit 1.2.0 starts with a configuration that was written for 1.0, and then answers no question.
#
# For whom: everyone who upgrades it and keeps the configuration (Debian 12 to 13), and everyone who configures a program that
# asks it.
# Package: policyd-rate-limit 1.2.0 with PyYAML 6.0.4 (PyPI); the same in 1.2.0-1.1+deb13u1 (Debian 13).
# Behaviour: every other setting that a configuration does not name has a default. The new setting, sql_limits_by_id, has none
# in the code. It is only in the example file. The service reads it at each question, whatever the backend. The service creates
# its database, listens, and closes the connection of each question without an answer. `sql_limits_by_id: ""` avoids this.
# Output seen:
#   without the setting: listens, answer b'', 'sql_limits_by_id' is missing: True
#   with the setting: listens, answer b'action=dunno\n\n', 'sql_limits_by_id' is missing: False
# Exit status: 0 as described, 1 changed, 2 cannot be run.
cannot() { echo "cannot be run: $1" >&2; exit 2; }
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" >"$folder/log" 2>&1 || cannot "no python3 with venv"
"$folder/venv/bin/pip" install -q policyd-rate-limit==1.2.0 PyYAML==6.0.4 >"$folder/log" 2>&1 || cannot "$(tail -n 1 "$folder/log")"

"$folder/venv/bin/python" - "$folder" <<'END'
import getpass, grp, os, socket, subprocess, sys, time
from pathlib import Path

folder = Path(sys.argv[1])
QUESTION = b"request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=192.0.2.1\n" \
    b"sasl_username=joe\nsender=joe@example.org\nrecipient=ann@example.net\n\n"
GROUP = grp.getgrgid(os.getgid()).gr_name


def ask(name, more=""):
    here = folder / name.replace(" ", "-")
    here.mkdir()
    (here / "config.yaml").write_text(
        f"debug: False\nuser: {getpass.getuser()}\ngroup: {GROUP}\npidfile: {here}/pid\nbackend: 0\n"
        f'sqlite_config: {{database: "{here}/db"}}\nSOCKET: "{here}/socket"\nsocket_permission: 0600\n'
        f"limits: [[30, 3600]]\nlimit_by_sasl: True\nsuccess_action: dunno\nfail_action: defer_if_permit later\n"
        f'db_error_action: "450 no database"\ndelay_to_close: 300\n{more}'
    )
    with open(here / "log", "wb") as log:
        words = [folder / "venv/bin/policyd-rate-limit", "-f", here / "config.yaml"]
        service = subprocess.Popen(words, stdout=log, stderr=log)
    answer = None
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        for _ in range(100):
            time.sleep(0.1)
            if client.connect_ex(str(here / "socket")) == 0:
                client.sendall(QUESTION)
                answer = client.recv(1000)
                break
    service.terminate()
    service.wait()
    missing = b"has no attribute 'sql_limits_by_id'" in (here / "log").read_bytes()
    print(f"{name}: {'does not listen' if answer is None else 'listens'}, answer {answer}, 'sql_limits_by_id' is missing: {missing}")
    return answer, missing


results = [ask("without the setting"), ask("with the setting", 'sql_limits_by_id: ""\n')]
sys.exit(0 if results == [(b"", True), (b"action=dunno\n\n", False)] else 3)
END
case $? in 0) exit 0 ;; 3) echo "the behaviour has changed" >&2; exit 1 ;; *) exit 2 ;; esac
