"""Whether a sendmail takes addresses that are not ASCII: its answer to EHLO in `sendmail -bs`."""

import os
from select import POLLIN, poll
from time import monotonic

COMMANDS = b"EHLO localhost\r\nQUIT\r\n"
LONGEST_ANSWER = 65536  # bytes
PATIENCE = 30.0  # seconds


def offers_smtputf8(sendmail: bytes, deadline: float) -> bool:
    """Whether `sendmail -bs` offers SMTPUTF8. False if it has no such option, or does not answer in time.

    Raises OSError if it cannot be started: that must not be a refusal, as the lack of SMTPUTF8 is.
    """
    end = min(deadline, monotonic() + PATIENCE)
    (server_in, client_out), (client_in, server_out) = os.pipe(), os.pipe()
    try:
        os.write(client_out, COMMANDS)
        environ = {name: value for name, value in os.environb.items() if name and name != b"QMAILQUEUE"}
        files = [
            (os.POSIX_SPAWN_DUP2, server_in, 0),
            (os.POSIX_SPAWN_DUP2, server_out, 1),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ]
        pid = os.posix_spawn(sendmail, [sendmail, b"-bs"], environ, file_actions=files)
    finally:
        for descriptor in (server_in, client_out, server_out):
            os.close(descriptor)
    answer = read_answer(client_in, end)
    os.close(client_in)
    try:
        os.kill(pid, 9)  # it has ended, or has had its time
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
    return any(line[:3] == b"250" and line[4:].strip().upper() == b"SMTPUTF8" for line in answer.split(b"\n"))


def read_answer(descriptor: int, end: float) -> bytes:
    """Return what can be read until the end of the file, or until the time `end`."""
    poller = poll()
    poller.register(descriptor, POLLIN)
    answer = b""
    while len(answer) < LONGEST_ANSWER and poller.poll(max(0.0, end - monotonic()) * 1000):
        part = os.read(descriptor, LONGEST_ANSWER)
        if not part:
            break
        answer += part
    return answer
