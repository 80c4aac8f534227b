"""sendmail-queue: qmail-queue's interface for `sendmail -i -f SENDER -- RECIPIENT...`, whose path is $SENDMAIL.

It puts mail into the queue of a host with Postfix, Exim or another mailer. A local sendmail trusts its caller. So it
gets no address that it could read as two, and from clients that may not relay none that it could route onward.
"""

# The C module, for its lower cost: see intake.
import _signal  # type: ignore[import-not-found]
import os
import stat

from qmail_smtpd.queue.argument import batches
from qmail_smtpd.queue.intake import IGNORED, NOT_WRITTEN, Failure, attempt, read_envelope, run, spool
from qmail_smtpd.smtp.mailbox import mailbox, utf8_mailbox
from qmail_smtpd.smtp.policy import is_relay_trick

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

SENDMAIL = b"/usr/sbin/sendmail"  # where every mailer installs it (Filesystem Hierarchy Standard, section 4.10)

# qmail-queue.8's exit codes for failures of this program alone.
REFUSED = 31
NOT_CONFIGURED = 55
TRY_LATER = 71
CRASHED = 81

# sysexits.h -> qmail-queue.8. Any other exit code is a temporary failure, so that no mail is lost by it. Three codes
# that sound permanent are not here because msmtp (1.8.23 and 1.8.28) also exits with them for temporary failures:
# 69 (EX_UNAVAILABLE) if the smarthost answers 4xx, 68 (EX_NOHOST) if its name cannot be resolved now, 77 (EX_NOPERM)
# if the login fails, even with 454. If the smarthost refuses MAIL, RCPT or DATA with 5xx, msmtp exits with 65.
EXITS = {
    64: REFUSED,  # EX_USAGE: sendmail rejects the address
    65: REFUSED,  # EX_DATAERR
    67: REFUSED,  # EX_NOUSER
    70: CRASHED,  # EX_SOFTWARE
    75: TRY_LATER,  # EX_TEMPFAIL
    78: NOT_CONFIGURED,  # EX_CONFIG
}

# Sendmail programs that lose or change a recipient with a quoted local part, or exit as after a crash: the file's name
# after all links (docs/sendmail-queue.md). nullmailer's is called sendmail, and comes with nullmailer-inject.
LOSES_QUOTES = (b"msmtp", b"smtpctl", b"ssmtp", b"dma")
NULLMAILER = b"../bin/nullmailer-inject"

ERROR_DESCRIPTOR = 6  # qmail.c CUSTOM_ERR_FD: a mailer that stays in the background must not hold it open


def main() -> "NoReturn":
    """Run the program."""
    run("sendmail-queue", deliver)


def deliver(deadline: float) -> None:
    """Read one message with its envelope and give both to sendmail, which starts only when the message is complete."""
    sendmail = os.environb.get(b"SENDMAIL", SENDMAIL)
    if not sendmail:
        raise Failure(NOT_CONFIGURED, "$SENDMAIL is empty")
    message = spool(deadline, open_temporary())
    sender, *recipients = read_envelope(deadline)
    start = [sendmail, b"-i", b"-f", sender_argument(sender), b"--"]
    arguments = [recipient_argument(recipient) for recipient in recipients]
    if any(text.startswith(b'"') for text in arguments) and loses_quotes(sendmail):
        raise Failure(REFUSED, b"a recipient needs quotes, which are lost by " + sendmail)
    if not all(text.isascii() for text in [*start, *arguments]):
        from qmail_smtpd.queue.capability import offers_smtputf8

        if not attempt(NOT_CONFIGURED, b"unable to run " + sendmail, offers_smtputf8, sendmail, deadline):
            raise Failure(REFUSED, b"an address is not ASCII, and SMTPUTF8 is not offered by " + sendmail)
    for batch in batches(arguments):
        os.lseek(message, 0, os.SEEK_SET)
        send(start + batch, message)


def open_temporary() -> int:
    """Open an unnamed file in $TMPDIR, or in memory if that is impossible."""
    try:
        return os.open(os.environb.get(b"TMPDIR", b"/tmp"), os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:
        return attempt(NOT_WRITTEN, "unable to create a file for the message", os.memfd_create, "message")


def sender_argument(sender: bytes) -> bytes:
    """Return the sender as the argument of -f. The null sender is `<>`, which every sendmail accepts."""
    if not sender:
        return b"<>"
    text = as_mailbox(sender)
    if text is None:
        raise Failure(REFUSED, "the sender cannot be written as an address of RFC 5321")
    return text


def as_mailbox(address: bytes) -> bytes | None:
    """Return the address in RFC 5321's form, None if it has none. It may be UTF-8 where SMTPUTF8 is offered."""
    if not address.isascii() and os.path.exists("control/smtputf8"):
        return utf8_mailbox(address)
    return mailbox(address)


def recipient_argument(recipient: bytes) -> bytes:
    """Return the recipient as an argument. Raise Failure if it cannot be one, or could be routed onward.

    This check is always strict, even if qmail-smtpd's is not (control/relaystrict).
    """
    if b"RELAYCLIENT" not in os.environb and is_relay_trick(recipient, listed_domains()):
        raise Failure(REFUSED, "a recipient could be routed onward (relaystrict), for a client that may not relay")
    text = as_mailbox(recipient)
    if text is None:
        raise Failure(REFUSED, "a recipient cannot be written as an address of RFC 5321")
    if text.startswith(b"-"):  # nullmailer and ssmtp read options even after `--`
        raise Failure(REFUSED, "a recipient begins with a hyphen, and could be read as an option")
    return text


def loses_quotes(sendmail: bytes) -> bool:
    """Whether sendmail is one of those that do not keep a recipient with a quoted local part."""
    path = os.path.realpath(sendmail)
    return os.path.basename(path) in LOSES_QUOTES or os.path.exists(os.path.join(os.path.dirname(path), NULLMAILER))


def listed_domains() -> frozenset[bytes] | None:
    """Return rcpthosts as is_relay_trick expects it: None in a qmail home without the file, else an empty set.

    Without control/rcpthosts qmail-smtpd accepts mail for all domains. Apart from that the domains do not matter here.
    """
    if os.path.isdir("control") and not os.path.exists("control/rcpthosts"):
        return None
    return frozenset()


def send(command: list[bytes], message: int) -> None:
    """Run sendmail once, and wait for it. Raise Failure unless its exit code is 0."""
    pid = attempt(NOT_CONFIGURED, b"unable to run " + command[0], spawn, command, message)
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:  # something else has reaped the process: a lost status must never count as success
        raise Failure(CRASHED, command[0], ": its exit code is lost") from None
    if os.WIFSIGNALED(status):
        raise Failure(CRASHED, command[0], f": killed by signal {os.WTERMSIG(status)}")
    code = os.WEXITSTATUS(status)
    if code:
        raise Failure(EXITS.get(code, TRY_LATER), command[0], f": exit code {code}")


def spawn(command: list[bytes], message: int) -> int:
    """Start sendmail with the message on descriptor 0, and no other descriptor of ours but 2. Return its pid."""
    files: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [(os.POSIX_SPAWN_DUP2, message, 0)]
    files.append((os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0))
    if stat.S_ISSOCK(os.fstat(2).st_mode):  # under inetd it is the client's connection
        files.append((os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
    try:
        os.set_inheritable(ERROR_DESCRIPTOR, False)
    except OSError:
        pass  # it is not open
    environ = dict(os.environb)
    environ.pop(b"QMAILQUEUE", None)  # qmail's own sendmail would run this program again, without end
    environ.pop(b"", None)  # `=value` can be inherited, but posix_spawn rejects an empty name
    defaults = [getattr(_signal, name) for name in (*IGNORED, "SIGPIPE", "SIGCHLD")]
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # if it is ignored, the exit code is lost
    return os.posix_spawn(command[0], command, environ, file_actions=files, setsigmask=(), setsigdef=defaults)
