"""The same Maildir, served by Dovecot's POP3 and by ours: octets, messages and TOP agree."""

import os
import re
import socket
from pathlib import Path

import pytest

from tests.kit.maildrop import Maildir, talk
from tests.kit.peers.dovecotserver import Dovecot, needs_root
from tests.kit.server import PATIENCE, read_all

FILES = [
    b"Subject: dots\n\nbody\n.\n..\n...x\n",
    b"Subject: only a header\n",
    b"Subject: empty lines\n\n\n\n",
    b"Subject: bytes\n\n" + bytes(range(128, 256)) + b"\n",
    b"Subject: many lines\n\n" + b"l\n" * 50,
    b"Subject: CR\n\na\rb\n",
    b"Subject: long\n\n" + b"x" * 100_000 + b"\n.\n",
    b"no header\n\n.\n",
    b"Subject: CRLF\r\n\r\nbody\r\n.\r\n\r\n..x\r\nend\r\n",
    b"Subject: CRLF and LF\r\nX: y\n\r\nbody\n.\r\n\n..x\r\n",
    b"Subject: LF and CRLF\nX: y\r\n\nbody\r\n.\n\r\n",
    b"Subject: CR CRLF\r\r\n\r\na\r\r\n\r\r\n.\r\r\n",
    b"Subject: only a CRLF header\r\n",
    b"Subject: long, CRLF\r\n\r\n".ljust(65535, b"x") + b"\r\n.\r\nend\r\n",  # a CRLF in two blocks
]
EACH = [b"RETR %d\r\nTOP %d 0\r\nTOP %d 2\r\nTOP %d 99\r\n" % ((number,) * 4) for number in range(1, len(FILES) + 1)]
COMMANDS = b"STAT\r\nLIST\r\nLIST 2\r\n" + b"".join(EACH)
COMMANDS += b"DELE 1\r\nDELE 3\r\nLIST\r\nRSET\r\nLIST 9\r\nFOO\r\nQUIT\r\n"


def write_files(folder: Path) -> None:
    for number, text in enumerate(FILES):
        path = folder / f"{number}.host:2,S"
        path.write_bytes(text)
        os.utime(path, (1_700_000_000 + number,) * 2)


def without_texts(replies: bytes) -> bytes:
    """Return the replies without the text that is only for people."""
    return re.sub(rb"(?m)^(\+OK|-ERR)(?! \d+ \d+\r$)[^\r\n]*", rb"\1", replies)


@pytest.mark.peer
@needs_root
def test_octets_messages_and_tops_equal_dovecots(tmp_path: Path) -> None:
    with Dovecot() as dovecot:
        write_files(dovecot.maildir / "cur")
        dovecot.own()
        with socket.create_connection(("127.0.0.1", dovecot.pop3), PATIENCE) as client:
            file = client.makefile("rb")
            file.readline()
            client.sendall(b"USER joe\r\nPASS secret\r\n")
            assert [file.readline()[:3] for _ in range(2)] == [b"+OK"] * 2
            client.sendall(COMMANDS)
            dovecots_replies = file.read() + read_all(client)
            file.close()
    write_files(Maildir(tmp_path / "Maildir").path / "cur")
    own_replies = talk(tmp_path, COMMANDS).stdout.removeprefix(b"+OK \r\n")
    assert without_texts(own_replies) == without_texts(dovecots_replies)
