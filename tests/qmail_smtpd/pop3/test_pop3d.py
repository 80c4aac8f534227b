"""qmail-pop3d as a process: the original's replies, effects on the Maildir, hostile input, memory."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qmail_smtpd.net.wire import Wire
from qmail_smtpd.pop3.mailbox import BLOCK, Mailbox
from qmail_smtpd.pop3.pop3d import Session, converse
from tests.kit.imports import check, imported
from tests.kit.maildrop import AN_HOUR, AS_NON_ROOT, ENVIRON, Dialogue, Maildir, command, talk
from tests.kit.server import until
from tests.kit.support import peer, script

FIRST = b"Subject: one\n\nthe first\n.dot\n"
SECOND = b"Subject: two\n\nno end of line"
RECEIVED_FIRST = b"Subject: one\r\n\r\nthe first\r\n..dot\r\n"
GREETING = b"+OK \r\n"
MEMORY = 24 * 1024  # kB for a message of 50 MB; the interpreter alone takes 9 MB
MEMORY_OF_MANY = 60 * 1024  # kB for 100,000 messages


@pytest.fixture
def maildir(tmp_path: Path) -> Maildir:
    """A Maildir with a new message and an older one that was read."""
    made = Maildir(tmp_path / "Maildir")
    made.put("cur/20.a.host:2,S", FIRST, age=2 * AN_HOUR)
    made.put("new/10.b.host", SECOND)
    return made


@pytest.fixture
def pop(maildir: Maildir, tmp_path: Path) -> Iterator[Dialogue]:
    with Dialogue(command(), tmp_path) as dialogue:
        assert dialogue.greeting == GREETING
        yield dialogue


DIALOGUE = {  # input -> the replies after the greeting
    "number and total length": (b"STAT\r\n", b"+OK 2 65\r\n"),
    "lengths": (b"LIST\r\n", b"+OK \r\n1 33\r\n2 32\r\n.\r\n"),
    "one length": (b"LIST 2\r\n", b"+OK 2 32\r\n"),
    "ids": (b"UIDL\r\n", b"+OK \r\n1 20.a.host\r\n2 10.b.host\r\n.\r\n"),
    "one id": (b"UIDL 1\r\n", b"+OK 1 20.a.host\r\n"),
    "a message": (b"RETR 1\r\n", b"+OK \r\n" + RECEIVED_FIRST + b".\r\n"),
    "a message whose last line has no end": (b"RETR 2\r\n", b"+OK \r\nSubject: two\r\n\r\nno end of line\r\n.\r\n"),
    "a header": (b"TOP 1 0\r\n", b"+OK \r\nSubject: one\r\n\r\n.\r\n"),
    "a header and a line": (b"TOP 1   1\r\n", b"+OK \r\nSubject: one\r\n\r\nthe first\r\n.\r\n"),
    "TOP without a count is RETR": (b"TOP 1\r\n", b"+OK \r\n" + RECEIVED_FIRST + b".\r\n"),
    "RETR with a count is TOP": (b"RETR 1 0\r\n", b"+OK \r\nSubject: one\r\n\r\n.\r\n"),
    "a line count that is no number": (b"TOP 1 -1\r\n", b"+OK \r\n" + RECEIVED_FIRST + b".\r\n"),
    "NOOP": (b"NOOP\r\n", b"+OK \r\n"),
    "capabilities": (b"CAPA\r\n", b"+OK \r\nTOP\r\nUIDL\r\nRESP-CODES\r\nPIPELINING\r\n.\r\n"),
    "a deleted message is not listed": (b"DELE 1\r\nSTAT\r\nLIST\r\nUIDL\r\n",
                                        b"+OK \r\n+OK 2 32\r\n+OK \r\n2 32\r\n.\r\n+OK \r\n2 10.b.host\r\n.\r\n"),
    "a deleted message is not sent": (b"DELE 1\r\nRETR 1\r\nDELE 1\r\n", b"+OK \r\n" + b"-ERR already deleted\r\n" * 2),
    "RSET undeletes": (b"DELE 1\r\nRSET\r\nLIST 1\r\n", b"+OK \r\n+OK \r\n+OK 1 33\r\n"),
    "LAST is the highest deleted message": (b"LAST\r\nDELE 2\r\nDELE 1\r\nLAST\r\nRSET\r\nLAST\r\n",
                                            b"+OK 0\r\n+OK \r\n+OK \r\n+OK 2\r\n+OK \r\n+OK 0\r\n"),
    "RETR does not change LAST": (b"RETR 2\r\nLAST\r\n",
                                  b"+OK \r\nSubject: two\r\n\r\nno end of line\r\n.\r\n+OK 0\r\n"),
    "message 0": (b"RETR 0\r\n", b"-ERR messages are counted from 1\r\n"),
    "message 3": (b"DELE 3\r\n", b"-ERR not that many messages\r\n"),
    "a message beyond 64 bits": (b"DELE 18446744073709551617\r\n", b"-ERR not that many messages\r\n"),
    "no message number": (b"RETR\r\nTOP\r\nDELE\r\n", b"-ERR syntax error\r\n" * 3),
    "not a number": (b"LIST x\r\nUIDL -1\r\n", b"-ERR syntax error\r\n" * 2),
    "text after the number": (b"LIST 1x\r\n", b"+OK 1 33\r\n"),
    "commands of other states": (b"USER joe\r\n\r\nSTLS\r\n", b"-ERR unimplemented\r\n" * 3),
    "a line beyond the limit": (b"x" * 10_000 + b"\r\n", b"-ERR line too long\r\n"),
    "any case, LF alone": (b"nOOp\n", b"+OK \r\n"),
    "QUIT": (b"QUIT\r\nNOOP\r\n", b"+OK \r\n"),
}  # fmt: skip


@pytest.mark.parametrize("case", DIALOGUE)
def test_the_replies_are_the_originals(case: str, maildir: Maildir, tmp_path: Path) -> None:
    sent, replies = DIALOGUE[case]
    assert talk(tmp_path, sent) == (GREETING + replies, b"", 0)


CRLF = b"Subject: three\r\n\r\n".ljust(BLOCK - 1, b"x") + b"\r\n\n.dot\r\nend\r\n"  # a CRLF in two blocks


def test_a_file_with_crlf_is_sent_without_more_crs_and_has_that_length(maildir: Maildir, tmp_path: Path) -> None:
    maildir.put("cur/30.c.host:2,S", CRLF)
    sent = CRLF.replace(b"\r\n\n.dot", b"\r\n\r\n..dot")
    length = len(CRLF) + 1
    expected = GREETING + b"+OK \r\n" + sent + b".\r\n+OK \r\nSubject: three\r\n\r\n.\r\n"
    done = talk(tmp_path, b"RETR 3\r\nTOP 3 0\r\nLIST 3\r\nSTAT\r\n")
    assert done.stdout == expected + b"+OK 3 %d\r\n+OK 3 %d\r\n" % (length, 65 + length)


def test_commands_are_answered_byte_by_byte_and_after_garbage(pop: Dialogue) -> None:
    process = pop.process
    assert process.stdin
    for byte in b"\0\r\n\xff\xfe\nRETR 1\r\nQUIT\r\n":
        process.stdin.write(bytes((byte,)))
        process.stdin.flush()
    process.stdin.close()
    process.stdin = None
    expected = b"-ERR unimplemented\r\n" * 2 + b"+OK \r\n" + RECEIVED_FIRST + b".\r\n+OK \r\n"
    assert process.communicate()[0] == expected


# -- effects on the Maildir


def test_quit_removes_deleted_messages_and_moves_the_rest_to_cur(maildir: Maildir, tmp_path: Path) -> None:
    talk(tmp_path, b"DELE 1\r\nQUIT\r\n")
    assert maildir.names() == {"cur/10.b.host:2,"}
    talk(tmp_path, b"DELE 1\r\nQUIT\r\n")
    assert maildir.names() == set()


@pytest.mark.parametrize("sent", [b"DELE 1\r\nDELE 2\r\n", b"DELE 1\r\nQUIT", b"DELE 1\r\nRSET\r\n", b""])
def test_a_session_without_quit_changes_nothing(sent: bytes, maildir: Maildir, tmp_path: Path) -> None:
    before = maildir.names()
    assert talk(tmp_path, sent).exit == 0
    assert maildir.names() == before


def test_a_session_that_is_killed_changes_nothing(pop: Dialogue, maildir: Maildir) -> None:
    before = maildir.names()
    assert pop.ask(b"DELE 1") == b"+OK \r\n"
    pop.process.kill()
    pop.end()
    assert maildir.names() == before


def test_flags_of_old_mail_are_kept(maildir: Maildir, tmp_path: Path) -> None:
    talk(tmp_path, b"RETR 1\r\nQUIT\r\n")
    assert maildir.names() == {"cur/10.b.host:2,", "cur/20.a.host:2,S"}


def test_new_mail_with_flags_keeps_them(maildir: Maildir, tmp_path: Path) -> None:
    maildir.put("new/30.c.host:2,F")
    talk(tmp_path, b"QUIT\r\n")
    assert "cur/30.c.host:2,F" in maildir.names()


def test_new_mail_does_not_replace_old_mail_of_the_same_name(maildir: Maildir, tmp_path: Path) -> None:
    maildir.put("cur/10.b.host:2,", b"another\n")
    assert talk(tmp_path, b"QUIT\r\n").stdout == GREETING + b"+OK \r\n"
    assert (maildir.path / "cur/10.b.host:2,").read_bytes() == b"another\n"
    assert (maildir.path / "new/10.b.host").read_bytes() == SECOND


def test_mail_that_cannot_be_removed_is_reported_once_and_the_rest_is_removed(maildir: Maildir, tmp_path: Path) -> None:
    maildir.put("cur/21.a.host:2,S")
    maildir.path.joinpath("cur").chmod(0o555)
    sent = b"DELE 1\r\nDELE 2\r\nDELE 3\r\nQUIT\r\n"
    expected = GREETING + b"+OK \r\n" * 3 + b"-ERR unable to unlink all deleted messages\r\n"
    assert talk(tmp_path, sent) == (expected, b"", 0)
    maildir.path.joinpath("cur").chmod(0o755)
    assert maildir.names() == {"cur/20.a.host:2,S", "cur/21.a.host:2,S"}


def test_files_in_tmp_are_removed_after_36_hours(maildir: Maildir, tmp_path: Path) -> None:
    maildir.put("tmp/old", age=36 * AN_HOUR + 60)
    maildir.put("tmp/.old", age=36 * AN_HOUR + 60)
    maildir.put("tmp/young", age=36 * AN_HOUR - 60)
    talk(tmp_path, b"")
    assert {name for name in maildir.names() if name.startswith("tmp")} == {"tmp/.old", "tmp/young"}


def test_mail_can_be_read_without_tmp(maildir: Maildir, tmp_path: Path) -> None:
    maildir.path.joinpath("tmp").rmdir()
    assert talk(tmp_path, b"LIST 1\r\n").stdout == GREETING + b"+OK 1 33\r\n"


# -- the list of messages


def test_messages_are_sorted_by_time_and_within_one_second_by_name(tmp_path: Path) -> None:
    maildir = Maildir(tmp_path / "Maildir")
    for name, age in (("cur/1:2,", 10), ("new/2", 10), ("cur/3:2,S", 20), ("new/0", 5)):
        maildir.put(name, age=0)
        then = 1_700_000_000 - age + 0.25
        os.utime(maildir.path / name, (then, then))
    assert talk(tmp_path, b"UIDL\r\n").stdout == GREETING + b"+OK \r\n1 3\r\n2 1\r\n3 2\r\n4 0\r\n.\r\n"


def test_mail_of_this_second_is_left_for_the_next_session(maildir: Maildir, tmp_path: Path) -> None:
    maildir.put("new/30.c.host", age=-30)
    assert talk(tmp_path, b"STAT\r\nQUIT\r\n").stdout.startswith(GREETING + b"+OK 2 ")
    assert "new/30.c.host" in maildir.names()


def test_only_files_are_messages(maildir: Maildir, tmp_path: Path) -> None:
    for part in (maildir.path / "new", maildir.path / "cur"):
        (part / "1.directory").mkdir()
        os.mkfifo(part / "2.fifo")
        (part / "3.link").symlink_to("/etc/passwd")
        (part / "4.dangling").symlink_to("nowhere")
        (part / ".hidden").write_text("hidden\n")
        os.mknod(part / "5.socket", stat.S_IFSOCK)  # bind limits the length of the path
        for path in part.iterdir():
            os.utime(path, (1, 1), follow_symlinks=False)
    ids = talk(tmp_path, b"UIDL\r\nQUIT\r\n").stdout
    assert ids == GREETING + b"+OK \r\n1 10.b.host\r\n2 20.a.host\r\n.\r\n+OK \r\n"
    assert "new/3.link" in maildir.names()


STRANGE = {  # a file's name -> whether UIDL shows its unique part unchanged
    b"1.plain.host": True,
    b"1.M2P3V4I5_0.host,S=66,W=70": True,
    b"1." + b"x" * 250: True,
    b"1.a\r\n+OK fake": False,
    b"1.a blank": False,
    b"1.\x1b[2J": False,
    b"1.\xff\xfe": False,
    b":2,S": False,
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_unique_id_is_one_visible_word_whatever_the_file_is_called(name: bytes, tmp_path: Path) -> None:
    maildir = Maildir(tmp_path / "Maildir")
    maildir.put(b"cur/" + name, FIRST)
    answer = talk(tmp_path, b"UIDL\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n").stdout
    unique = answer.split(b"\r\n")[2].removeprefix(b"1 ")
    assert answer == b"+OK \r\n+OK \r\n1 %b\r\n.\r\n+OK \r\n%b.\r\n+OK \r\n+OK \r\n" % (unique, RECEIVED_FIRST)
    assert (unique == name) == STRANGE[name]
    assert unique
    assert all(0x21 <= byte <= 0x7E for byte in unique)
    assert maildir.names() == set()


def test_a_unique_id_does_not_change_with_flags(tmp_path: Path) -> None:
    maildir = Maildir(tmp_path / "Maildir")
    maildir.put(b"new/1.\xff", FIRST)
    first = talk(tmp_path, b"UIDL 1\r\nQUIT\r\n").stdout
    assert maildir.names() == {os.fsdecode(b"cur/1.\xff:2,")}
    assert talk(tmp_path, b"UIDL 1\r\nQUIT\r\n").stdout == first


# -- a Maildir that changes during the session


def test_a_message_that_was_moved_is_found(pop: Dialogue, maildir: Maildir) -> None:
    (maildir.path / "new/10.b.host").rename(maildir.path / "cur/10.b.host:2,")
    assert pop.read(b"RETR 2").startswith(b"Subject: two")
    (maildir.path / "cur/10.b.host:2,").rename(maildir.path / "cur/10.b.host:2,RS")
    assert pop.read(b"TOP 2 0").startswith(b"Subject: two")
    assert pop.ask(b"LIST 2") == b"+OK 2 32\r\n"
    assert pop.ask(b"UIDL 2") == b"+OK 2 10.b.host\r\n"


def test_a_message_that_was_moved_is_removed_where_it_is(pop: Dialogue, maildir: Maildir) -> None:
    assert pop.ask(b"DELE 2") == b"+OK \r\n"
    (maildir.path / "new/10.b.host").rename(maildir.path / "cur/10.b.host:2,S")
    assert pop.ask(b"QUIT") == b"+OK \r\n"
    assert maildir.names() == {"cur/20.a.host:2,S"}


def test_a_message_that_is_gone_cannot_be_opened_and_need_not_be_removed(pop: Dialogue, maildir: Maildir) -> None:
    (maildir.path / "new/10.b.host").unlink()
    assert pop.ask(b"RETR 2") == b"-ERR unable to open that message\r\n"
    assert pop.ask(b"STAT") == b"+OK 2 33\r\n"
    assert pop.ask(b"DELE 2") == b"+OK \r\n"
    assert pop.ask(b"QUIT") == b"+OK \r\n"
    assert maildir.names() == {"cur/20.a.host:2,S"}


def test_hard_links_to_one_file_are_each_found_again(maildir: Maildir, tmp_path: Path) -> None:
    for name in ("new/30.c.host", "new/40.d.host"):
        os.link(maildir.path / "new/10.b.host", maildir.path / name)
    with Dialogue(command(), tmp_path) as pop:
        for name in ("10.b.host", "30.c.host", "40.d.host"):
            (maildir.path / "new" / name).rename(maildir.path / "cur" / f"{name}:2,S")
        assert [pop.ask(b"LIST %d" % number) for number in (2, 3, 4)] == [b"+OK %d 32\r\n" % n for n in (2, 3, 4)]
        assert [pop.ask(b"DELE %d" % number) for number in (2, 4)] == [b"+OK \r\n"] * 2
        assert pop.ask(b"QUIT") == b"+OK \r\n"
    assert maildir.names() == {"cur/20.a.host:2,S", "cur/30.c.host:2,S"}


def test_another_message_of_the_same_name_is_not_taken_for_a_removed_one(pop: Dialogue, maildir: Maildir) -> None:
    other = maildir.put("cur/10.b.host:2,S", b"another\n")
    (maildir.path / "new/10.b.host").unlink()
    assert pop.ask(b"RETR 2") == b"-ERR unable to open that message\r\n"
    assert pop.ask(b"DELE 2") == b"+OK \r\n"
    assert pop.ask(b"QUIT") == b"+OK \r\n"
    assert other.read_bytes() == b"another\n"


def test_another_message_in_the_same_inode_is_not_taken_for_a_removed_one(pop: Dialogue, maildir: Maildir) -> None:
    (maildir.path / "new/10.b.host").rename(maildir.path / "new/11.other.host")  # the same inode, another message
    assert pop.ask(b"RETR 2") == b"-ERR unable to open that message\r\n"
    assert pop.ask(b"DELE 2") == b"+OK \r\n"
    assert pop.ask(b"QUIT") == b"+OK \r\n"
    assert "new/11.other.host" in maildir.names()


def test_mail_that_arrives_during_a_session_stays_new(pop: Dialogue, maildir: Maildir) -> None:
    maildir.put("new/30.c.host")
    assert pop.ask(b"DELE 1") == b"+OK \r\n"
    assert pop.ask(b"RETR 3") == b"-ERR not that many messages\r\n"
    assert pop.ask(b"QUIT") == b"+OK \r\n"
    assert maildir.names() == {"cur/10.b.host:2,", "new/30.c.host"}


@pytest.mark.parametrize("replacement", ["link", "fifo", "directory"])
def test_a_link_or_fifo_in_place_of_a_message_is_neither_followed_nor_waited_for(
    replacement: str, pop: Dialogue, maildir: Maildir
) -> None:
    path = maildir.path / "new/10.b.host"
    path.unlink()
    if replacement == "link":
        path.symlink_to("/etc/passwd")
    elif replacement == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert pop.ask(b"RETR 2") == b"-ERR unable to open that message\r\n"
    assert pop.ask(b"RETR 1") == b"+OK \r\n"


def test_a_maildir_that_disappears_gives_an_error_at_quit(pop: Dialogue, maildir: Maildir, tmp_path: Path) -> None:
    assert pop.ask(b"DELE 1") == b"+OK \r\n"
    maildir.path.joinpath("cur").rename(tmp_path / "elsewhere")
    assert pop.ask(b"RETR 2") == b"+OK \r\n"
    assert pop.rest().startswith(b"Subject: two")
    assert pop.ask(b"QUIT") == b"-ERR unable to unlink all deleted messages\r\n"
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


def test_two_sessions_may_delete_the_same_message(pop: Dialogue, maildir: Maildir, tmp_path: Path) -> None:
    with Dialogue(command(), tmp_path) as other:
        for session in (pop, other):
            assert session.ask(b"DELE 1") == b"+OK \r\n"
        assert pop.ask(b"QUIT") == b"+OK \r\n"
        assert other.read(b"RETR 2").startswith(b"Subject: two")
        assert other.ask(b"QUIT") == b"+OK \r\n"
    assert maildir.names() == {"cur/10.b.host:2,"}


def test_many_sessions_on_one_maildir_lose_nothing(tmp_path: Path) -> None:
    """Each message is fetched at least once before it is removed, while another process sets flags."""
    maildir = Maildir(tmp_path / "Maildir")
    texts = {b"number %d\r\n" % number for number in range(60)}
    for number in range(60):
        maildir.put(f"new/{number:03}.host", b"number %d\n" % number)
    fetched: set[bytes] = set()

    def fetch() -> None:
        with Dialogue(command(), tmp_path) as pop:
            for line in pop.read(b"LIST").splitlines():
                number = line.split()[0]
                if pop.ask(b"RETR " + number) == b"+OK \r\n":
                    fetched.add(pop.rest())
                    pop.ask(b"DELE " + number)
            pop.ask(b"QUIT")
            pop.end()

    clients = [threading.Thread(target=fetch) for _ in range(4)]
    for client in clients:
        client.start()
    while any(client.is_alive() for client in clients):
        for path in [*maildir.path.glob("new/*"), *maildir.path.glob("cur/*")]:
            try:
                path.rename(maildir.path / "cur" / f"{path.name.partition(':')[0]}:2,{'S' * ('S' not in path.name)}")
            except FileNotFoundError:
                pass
    talk(tmp_path, b"")
    left = {path.read_bytes().replace(b"\n", b"\r\n") for path in maildir.path.glob("*/*")}
    assert fetched | left == texts
    assert fetched


@pytest.mark.peer
@pytest.mark.parametrize(("call", "times"), [("unlink", 1), ("unlink", 2), ("rename", 1), ("rename", 2)])
def test_a_session_killed_during_quit_loses_only_deleted_messages(
    call: str, times: int, maildir: Maildir, tmp_path: Path
) -> None:
    for number in range(3, 6):
        maildir.put(f"new/{number}0.c.host", b"%d\n" % number, age=1000 - number)
    kill = [peer("/usr/bin/strace"), "-qq", "-o", "/dev/null", "-e", f"inject={call}:signal=KILL:when={times}"]
    sent = b"DELE 1\r\nDELE 3\r\nQUIT\r\n"  # 20.a.host and 30.c.host
    done = subprocess.run([*kill, *command()], input=sent, capture_output=True, cwd=tmp_path, env=ENVIRON)
    assert done.returncode == -9
    left = {name.partition("/")[2].partition(":")[0] for name in maildir.names()}
    assert left >= {"10.b.host", "40.c.host", "50.c.host"}
    assert (len(left) > 3) == (call == "unlink")


@given(
    st.lists(
        st.sampled_from([b"STAT", b"LIST", b"LIST 2", b"UIDL", b"RETR 1", b"TOP 2 1", b"DELE 1", b"RSET", b"LAST"])
        | st.binary(max_size=20)
    ),
    st.integers(1, 9),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_session_survives_any_bytes_and_its_replies_do_not_depend_on_the_pieces(
    maildir: Maildir, monkeypatch: pytest.MonkeyPatch, lines: list[bytes], size: int
) -> None:
    monkeypatch.chdir(maildir.path)
    sent = b"\r\n".join(line for line in lines if not line.lower().startswith(b"quit")) + b"\r\n"
    whole = RecordedClient([sent])
    pieces = RecordedClient([sent[start : start + size] for start in range(0, len(sent), size)])
    for wire in (whole, pieces):
        converse(Session(wire, Mailbox()))
    assert pieces.written == whole.written
    assert whole.written.startswith(GREETING)


class RecordedClient(Wire):
    """A wire with fixed input. `written` holds the replies."""

    def __init__(self, blocks: list[bytes]) -> None:
        super().__init__(1)
        self.blocks = blocks
        self.written = b""

    def read(self) -> bytes:
        return self.blocks.pop(0) if self.blocks else b""

    def write(self, data: bytes) -> None:
        self.written += data


# -- sessions that do not start, and their ends


NO_MAILDIR = b"-ERR this user has no $HOME/Maildir\r\n"


@pytest.mark.parametrize("words", [(), ("nowhere",), ("file",), ("",)])
def test_without_a_maildir_there_is_no_session(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert talk(tmp_path, b"STAT\r\n", words) == (NO_MAILDIR, b"", 0)


def test_further_arguments_are_ignored(maildir: Maildir, tmp_path: Path) -> None:
    assert talk(tmp_path, b"", ("Maildir", "more")).stdout == GREETING


@pytest.mark.parametrize("part", ["new", "cur"])
def test_a_maildir_without_its_parts_cannot_be_scanned(part: str, maildir: Maildir, tmp_path: Path) -> None:
    (maildir.path / part).rename(tmp_path / "elsewhere")
    assert talk(tmp_path, b"STAT\r\n") == (b"-ERR unable to scan $HOME/Maildir\r\n", b"", 0)


def test_root_is_refused_without_a_reply_to_the_client(maildir: Maildir, tmp_path: Path) -> None:
    words = ["unshare", "--user", "--map-root-user", script("qmail-pop3d"), "Maildir"]
    done = subprocess.run(words, input=b"STAT\r\n", capture_output=True, cwd=tmp_path, env=ENVIRON)
    assert (done.stdout, done.stderr) == (b"", b"qmail-pop3d invoked as uid 0, terminating\n")
    assert done.returncode == 1


def test_the_message_about_root_does_not_go_to_a_client_on_descriptor_2(maildir: Maildir, tmp_path: Path) -> None:
    words = ["unshare", "--user", "--map-root-user", script("qmail-pop3d"), "Maildir"]
    client, server = socket.socketpair()
    with client, server:
        done = subprocess.run(words, stdin=server, stdout=server, stderr=server, cwd=tmp_path, env=ENVIRON)
        server.close()
        assert (client.recv(100), done.returncode) == (b"", 1)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_a_closed_descriptor_ends_the_program(closed: str, maildir: Maildir, tmp_path: Path) -> None:
    before = maildir.names()
    shell = [*AS_NON_ROOT, "sh", "-c", f'exec "$0" Maildir {closed}', script("qmail-pop3d")]
    done = subprocess.run(shell, input=b"DELE 1\r\nQUIT\r\n", capture_output=True, cwd=tmp_path, env=ENVIRON)
    assert (done.stdout, done.returncode) == (b"", 0)
    assert maildir.names() == before


def test_a_silent_client_is_disconnected_without_a_reply(maildir: Maildir, tmp_path: Path) -> None:
    impatient = "from qmail_smtpd.pop3 import pop3d; pop3d.TIMEOUT = 0.01; pop3d.main()"
    with Dialogue([*AS_NON_ROOT, sys.executable, "-c", impatient, "Maildir"], tmp_path, {"LANG": "C"}) as pop:
        assert pop.greeting == GREETING
        assert pop.line() == b""
        assert pop.end() == 0


def test_a_client_that_disconnects_during_a_message_changes_nothing(maildir: Maildir, tmp_path: Path) -> None:
    maildir.put("new/30.c.host", b"x" * 5_000_000)
    before = maildir.names()
    client, server = socket.socketpair()
    with client, subprocess.Popen(command(), stdin=server, stdout=server, cwd=tmp_path, env=ENVIRON) as process:
        server.close()
        client.sendall(b"DELE 1\r\nRETR 3\r\nQUIT\r\n")
        until(lambda: len(client.recv(1000)) == 1000)
        client.close()
        assert process.wait(20) == 0
    assert maildir.names() == before


def test_a_client_that_is_gone_when_its_quit_is_read_loses_no_mail(maildir: Maildir, tmp_path: Path) -> None:
    before = maildir.names()
    client, server = socket.socketpair()
    with client, subprocess.Popen(command(), stdin=server, stdout=server, cwd=tmp_path, env=ENVIRON) as process:
        server.close()
        assert client.recv(100) == GREETING
        process.send_signal(signal.SIGSTOP)
        client.sendall(b"RETR 1\r\nDELE 1\r\nQUIT\r\n")
        client.close()
        process.send_signal(signal.SIGCONT)
        assert process.wait(20) == 0
    assert maildir.names() == before


# -- memory and imports


def memory_for(tmp_path: Path, sent: bytes, length: int) -> tuple[bytes, int]:
    """Return the last kB of `length` bytes of replies, and the peak memory of the process in kB."""
    with Dialogue(command(), tmp_path) as pop:
        process = pop.process
        assert process.stdin
        assert process.stdout
        process.stdin.write(sent)
        process.stdin.flush()
        tail = b""
        while length > 0:
            part = process.stdout.read1(1 << 20)
            assert part, tail
            length -= len(part)
            tail = (tail + part)[-1000:]
        assert length == 0, tail
        status = Path(f"/proc/{process.pid}/status").read_text()
    return tail, int(status.partition("VmHWM:")[2].split()[0])


def test_a_message_of_50_MB_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    maildir = Maildir(tmp_path / "Maildir")
    line = b"x" * 75 + b"\n"
    path = maildir.put("new/1", b"Subject: t\n\n" + line * 650_000)
    os.utime(path, (1, 1))
    size = 14 + 77 * 650_000
    length = len(b"+OK 1 %d\r\n+OK \r\n.\r\n" % size) + size
    tail, memory = memory_for(tmp_path, b"LIST 1\r\nRETR 1\r\n", length)
    assert tail.endswith(b"xxx\r\n.\r\n")
    assert memory < MEMORY


@pytest.mark.slow
def test_100_000_messages_are_listed_and_fetched(tmp_path: Path) -> None:
    maildir = Maildir(tmp_path / "Maildir")
    first = maildir.put("cur/000000.host:2,", FIRST)
    for number in range(1, 100_000):
        if number % 50_000 == 0:  # ext4 allows 65,000 links
            first = maildir.put(f"cur/{number:06}.host:2,", FIRST)
        else:
            os.link(first, maildir.path / f"cur/{number:06}.host:2,")
    os.utime(first, (1, 1))
    fixed = b"+OK 100000 3300000\r\n+OK \r\n.\r\n+OK \r\nSubject: one\r\n\r\n.\r\n"
    length = len(fixed) + sum(len(b"%d 000000.host\r\n" % number) for number in range(1, 100_001))
    tail, memory = memory_for(tmp_path, b"STAT\r\nUIDL\r\nTOP 100000 0\r\n", length)
    assert tail.endswith(b".host\r\n.\r\n+OK \r\nSubject: one\r\n\r\n.\r\n")
    assert memory < MEMORY_OF_MANY


def test_a_session_loads_few_modules(tmp_path: Path) -> None:
    Maildir(tmp_path / "Maildir").put("cur/1:2,")
    not_root = "import os, sys; os.getuid = lambda: 1; sys.argv[1:] = [sys.argv[1]]; "
    code = not_root + "from qmail_smtpd.pop3.pop3d import main; main()"
    loaded = imported(["-c", code, str(tmp_path / "Maildir")], tmp_path, b"STAT\r\nUIDL\r\nRETR 1\r\nQUIT\r\n")
    loaded -= imported(["-c", "pass"], tmp_path, b"")
    check(loaded, 12)
