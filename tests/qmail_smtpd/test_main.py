"""qmail-smtpd as a process: pipes, descriptors, signals, inheritance, settings, errors at the start."""

import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.kit.mailhome import CLIENT, CONTROL, MESSAGE, make_home, start, talk
from tests.kit.server import read_all
from tests.kit.support import script


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home")


def test_a_session_through_a_shell_pipe(home: Path) -> None:
    command = f"printf 'EHLO me\\r\\nQUIT\\r\\n' | TCPREMOTEIP=192.0.2.1 QMAILHOME={home} {script('qmail-smtpd')}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    wanted = b"220 mx.example.org ESMTP|250-mx.example.org|250-PIPELINING|250 8BITMIME|221 mx.example.org|"
    assert done.stdout == wanted.replace(b"|", b"\r\n")


def test_a_bare_lf_ends_a_command_but_not_a_message(home: Path) -> None:
    commands = "EHLO me\nMAIL FROM:<a@b>\nRCPT TO:<u@example.com>\nDATA\n"
    assert talk(home, commands + "hello\r\n.\r\nQUIT\n").codes[-2:] == ["250", "221"]
    refused = talk(home, commands + "hello\n.\nQUIT\n")
    assert refused.codes[-2:] == ["354", "451"]
    assert [envelope.endswith(b"\0\0") for _, envelope in refused.queue] == [True, False]


def test_a_session_that_is_pipelined_in_one_write(home: Path) -> None:
    result = talk(home, "EHLO me\r\n" + MESSAGE * 3 + "RSET\r\nNOOP\r\nQUIT\r\n")
    assert result.codes == ["220", "250-", "250-", "250", *["250", "250", "354", "250"] * 3, "250", "250", "221"]
    assert [envelope for _, envelope in result.queue] == [b"Fs@sender.test\0Tu@example.com\0\0"] * 3
    assert result.status == 0


def test_each_reply_is_sent_at_once_to_a_client_that_waits_for_it(home: Path) -> None:
    process = start(home, bufsize=0)
    assert process.stdin
    assert process.stdout
    for line, reply in (("", b"220 "), ("EHLO\n", b"250-"), (MESSAGE[:25] + "\n", b"250 "), ("QUIT\n", b"221 ")):
        process.stdin.write(line.encode())
        assert os.read(process.stdout.fileno(), 65536).startswith(reply)
    assert process.wait(10) == 0
    process.stdin.close(), process.stdout.close(), process.stderr.close()  # type: ignore[union-attr]


def test_the_queue_program_inherits_the_environment_and_no_further_descriptors(home: Path) -> None:
    report = home / "report"
    program = home / "bin/spy"
    program.write_text(f"#!/bin/sh\nls /proc/self/fd > {report}\necho $SECRET >> {report}\ncat >/dev/null\nexit 31\n")
    program.chmod(0o755)
    result = talk(home, MESSAGE, {**CLIENT, "QMAILQUEUE": str(program), "SECRET": "inherited"})
    assert result.codes[-1] == "554"
    *descriptors, secret = report.read_text().split()
    # ls has one more for the directory, and the test one more, with which it waits for all processes of the session
    assert set(descriptors) >= {"0", "1", "2", "6"}
    assert len(descriptors) <= 6
    assert secret == "inherited"


TRANSACTION = "MAIL FROM:<s@sender.test>\r\nRCPT TO:<u@example.com>\r\n"


@pytest.mark.parametrize(
    ("control", "env", "text", "codes"),
    [
        ({"barecr": "refuse\n"}, {}, TRANSACTION + "DATA\r\na\rb\r\n.\r\nQUIT\r\n", "250 250 354 451"),
        ({"barecr": "allow\n"}, {}, TRANSACTION + "DATA\r\na\rb\r\n.\r\nQUIT\r\n", "250 250 354 250 221"),
        (
            {"relaystrict": ""},
            {},
            "MAIL\r\nRCPT <a%b@example.com>\r\nRCPT <>\r\nRCPT <postmaster>\r\n",
            "250 553 553 250",
        ),
        ({"relaystrict": ""}, {"RELAYCLIENT": ""}, "MAIL\r\nRCPT <a%b@evil.test>\r\n", "250 250"),
        (
            {},
            {"RELAYCLIENT": "", "NORELAY": "1"},
            "MAIL\r\nRCPT <a@evil.test>\r\nRCPT <a@example.com>\r\n",
            "250 553 250",
        ),
        (
            {},
            {"RELAYCLIENT": "", "NORELAY": ""},
            "MAIL\r\nRCPT <a@evil.test>\r\nRCPT <a%b@example.com>\r\n",
            "250 553 250",
        ),
        ({"badmailfrom": "@sender.test\n"}, {"RELAYCLIENT": ""}, TRANSACTION, "250 553"),
        ({"badmailfrom": "@sender.test\n", "badmailfromrelay": "skip\n"}, {"RELAYCLIENT": ""}, TRANSACTION, "250 250"),
        ({"badmailfrom": "@sender.test\n", "badmailfromrelay": "skip\n"}, {}, TRANSACTION, "250 553"),
        ({"databytes": "9\n"}, {}, "EHLO a\r\nMAIL FROM:<a@b> SIZE=10\r\n", "250- 250- 250- 250 552"),
        ({"databytes": "9\n"}, {"DATABYTES": "0"}, "EHLO a\r\nMAIL FROM:<a@b> SIZE=10\r\n", "250- 250- 250 250"),
        ({}, {"DATABYTES": "9"}, "EHLO a\r\nMAIL FROM:<a@b> SIZE=10\r\n", "250- 250- 250- 250 552"),
        ({}, {}, "MAIL\r\nRCPT <u@[127.0.0.1]>\r\nRCPT <u@[0.0.0.0]>\r\nRCPT <u@[192.0.2.99]>\r\n", "250 250 250 553"),
    ],
)
def test_settings_in_control_files_and_environment(
    control: dict[str, object], env: dict[str, str], text: str, codes: str, tmp_path: Path
) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "localiphost": "example.com\n", **control})
    assert " ".join(talk(home, text, {**CLIENT, **env}).codes[1:]) == codes


def test_a_client_that_never_relays_does_not_even_without_rcpthosts_and_the_queue_program_sees_it(home: Path) -> None:
    (home / "control/rcpthosts").unlink()
    (home / "bin/qmail-queue").write_text("#!/bin/sh\nenv >report\ncat >/dev/null\nexit 31\n")
    environ = {**CLIENT, "RELAYCLIENT": "", "NORELAY": "1"}
    text = "MAIL\r\nRCPT <a@example.com>\r\nRCPT <>\r\nRCPT <postmaster>\r\nDATA\r\n.\r\n"
    assert talk(home, text, environ).codes[1:] == ["250", "553", "553", "250", "354", "554"]
    names = [line.partition("=")[0] for line in (home / "report").read_text().splitlines()]
    assert "NORELAY" in names
    assert "RELAYCLIENT" not in names


OUR_FILES = [
    "maxrcpt",
    "maxerrors",
    "timeoutsession",
    "barecr",
    "relaystrict",
    "badmailfromrelay",
    "chunking",
    "limits",
    "smtputf8",
    "smtpgreetdelay",
]


@pytest.mark.parametrize("name", OUR_FILES)
def test_an_unreadable_control_file_of_our_own_is_a_421(name: str, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, name: {"dir": True}})
    result = talk(home, "QUIT\r\n")
    assert (result.stdout, result.status) == (b"421 unable to read controls (#4.3.0)\r\n", 1)


FILES = [
    *OUR_FILES,
    *(
        "me",
        "smtpgreeting",
        "localiphost",
        "timeoutsmtpd",
        "rcpthosts",
        "badmailfrom",
        "databytes",
        "morercpthosts.cdb",
    ),
    *("maxauth", "authcleartext"),
]


@pytest.mark.parametrize("name", FILES)
def test_a_link_that_leads_nowhere_is_a_421_and_not_a_missing_file(name: str, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    (home / "control" / name).unlink(missing_ok=True)
    (home / "control" / name).symlink_to("nowhere")
    environ = {**CLIENT, "SMTPAUTH": "", "SMTPAUTHFILE": "users"}
    result = talk(home, TRANSACTION.replace("example.com", "far.test"), environ)
    assert (result.stdout, result.status) == (b"421 unable to read controls (#4.3.0)\r\n", 1)
    assert b"warning: unable to read control/%b: file does not exist\n" % name.encode() in result.stderr


def test_without_a_qmail_home_there_is_no_session(tmp_path: Path) -> None:
    result = talk(tmp_path / "none", "QUIT\r\n")
    assert (result.stdout, result.status) == (b"421 unable to read controls (#4.3.0)\r\n", 1)


def test_without_rcpthosts_the_cdb_is_not_opened(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {"me": "mx\n"})
    (home / "control/morercpthosts.cdb").symlink_to("morercpthosts.cdb")
    assert talk(home, "MAIL\r\nRCPT <u@any.test>\r\nQUIT\r\n").codes == ["220", "250", "250", "221"]


def test_the_client_gets_a_reply_if_memory_runs_out(home: Path) -> None:
    process = start(home)
    assert process.stdout
    process.stdout.read(10)
    size = int(Path(f"/proc/{process.pid}/status").read_text().split("VmPeak:")[1].split()[0])
    process.communicate()
    rcpt = "RCPT TO:<" + "x" * 880 + "@example.com>\r\n"
    command = ["sh", "-c", f"ulimit -v {size + 2000}; exec {script('qmail-smtpd')}"]
    environ = {"PATH": os.environ["PATH"], "QMAILHOME": str(home)}
    text = ("MAIL <a@b>\r\n" + rcpt * 8000 + "QUIT\r\n").encode()
    done = subprocess.run(command, env=environ, input=text, capture_output=True, check=False)
    assert (done.stdout.split(b"\r\n")[-2], done.returncode) == (b"421 out of memory (#4.3.0)", 1)


HELLO = "EHLO x\r\nMAIL FROM:<a@b.test>\r\n"
RCPT = "RCPT TO:<u@example.com>\r\n"
# control files, variables, commands: each needs a module that is not loaded yet
NEEDS: dict[str, tuple[dict[str, object], dict[str, str], str]] = {
    "address literal": ({}, {}, HELLO + "RCPT TO:<u@[127.0.0.1]>\r\n"),
    "message": ({}, {}, HELLO + RCPT + "DATA\r\n"),
    "chunk": ({"chunking": "\n"}, {}, HELLO + RCPT + "BDAT 3 LAST\r\nx\r\n"),
    "policy service": ({"policyservice": "inet:localhost:1\n", "policyfailure": "open\n"}, {}, HELLO + RCPT),
    "recipient check": ({}, {"RCPTCHECK": "/bin/true"}, HELLO + RCPT),
    "login": ({"authcleartext": "\n"}, {"SMTPAUTHFILE": "users"}, "EHLO x\r\nAUTH PLAIN AGpvZQBzZWNyZXQ=\r\n"),
    "Dovecot": ({"authcleartext": "\n", "authsocket": "/nonexistent\n"}, {}, "EHLO x\r\n"),
    "certificate": ({"servercert.pem": "\n"}, {}, "EHLO x\r\nSTARTTLS\r\n"),
    "proxy": ({"xclienthosts": "192.0.2.1\n"}, {}, "EHLO x\r\nXCLIENT ADDR=192.0.2.77\r\n"),
}


@pytest.mark.parametrize(("control", "environ", "text"), NEEDS.values(), ids=NEEDS)
def test_the_client_gets_a_reply_if_there_is_no_descriptor(
    control: dict[str, object], environ: dict[str, str], text: str, tmp_path: Path
) -> None:
    client, server = socket.socketpair()
    home = make_home(tmp_path / "home", {**CONTROL, **control})
    with client, server:
        process = start(home, {**CLIENT, **environ}, stdin=server, stdout=server)
        server.close()
        assert client.recv(1000).startswith(b"220 ")
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, 3))
        client.sendall(text.encode())
        assert read_all(client).split(b"\r\n")[-2:] == [b"421 out of descriptors (#4.3.0)", b""]
    assert process.communicate()[1] == b"qmail-smtpd: warning: out of descriptors\n"
    assert process.returncode == 1


def test_sigint_ends_the_session_silently(home: Path) -> None:
    process = start(home)
    assert process.stdout
    process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert (process.returncode, stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&-"])
def test_closed_descriptors_end_the_session_silently(closed: str, home: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "QMAILHOME": str(home)}
    command = ["sh", "-c", f"exec {script('qmail-smtpd')} {closed}"]
    done = subprocess.run(command, env=environ, input=MESSAGE.encode(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_slow_queue_program_does_not_delay_earlier_replies(home: Path) -> None:
    (home / "bin/qmail-queue").write_text("#!/bin/sh\ncat >/dev/null; until test -e go; do sleep 0.02; done\n")
    process = start(home)
    assert process.stdout
    assert process.stdin
    process.stdin.write(MESSAGE.encode() + b"QUIT\r\n")
    process.stdin.flush()
    output = b""
    while b"354" not in output:
        output += os.read(process.stdout.fileno(), 65536)
    assert not output.endswith(b"221 mx.example.org\r\n")
    (home / "go").touch()
    stdout, _ = process.communicate()
    assert stdout.endswith(b"221 mx.example.org\r\n")


def test_non_blocking_descriptors_lose_no_replies(home: Path) -> None:
    client, server = socket.socketpair()
    server.setblocking(False)
    environ = {b"PATH": os.environb[b"PATH"], b"QMAILHOME": bytes(home)}
    process = subprocess.Popen([script("qmail-smtpd")], env=environ, stdin=server, stdout=server)
    server.close()
    client.sendall(b"HELP\r\n" * 8000)
    time.sleep(0.2)  # the replies have filled the socket by now
    client.sendall(b"QUIT\r\n")
    output = b""
    while part := client.recv(65536):
        output += part
    client.close()
    assert process.wait() == 0
    assert output.count(b"\r\n") == 8002


def test_a_variable_without_a_name_does_not_prevent_queueing(home: Path) -> None:
    command = ["env", "=nameless", f"QMAILHOME={home}", script("qmail-smtpd")]
    done = subprocess.run(command, input=MESSAGE.encode(), capture_output=True, check=False)
    assert b"\r\n250 ok 1" in done.stdout


@pytest.mark.parametrize(("local", "code"), [("::1", "250"), ("127.0.0.1", "553")])
def test_an_ipv6_literal_of_this_host_is_localiphost_in_a_session_over_ipv6(
    tmp_path: Path, local: str, code: str
) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "localiphost": "example.com\n"})
    text = "MAIL\r\nRCPT <u@[IPv6:::]>\r\nRCPT <u@[IPv6:2001:db8::25]>\r\nQUIT\r\n"
    assert talk(home, text, {**CLIENT, "TCPLOCALIP": local}).codes == ["220", "250", code, "553", "221"]
