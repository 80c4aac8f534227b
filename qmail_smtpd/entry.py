"""The console scripts of the mail programs (see tcprules/entry.py)."""

from tcprules.entry import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

QUEUE_NO_MEMORY = 51  # qmail-queue.c, die(51)


def qmail_smtpd() -> "NoReturn":
    start("qmail-smtpd", "qmail_smtpd.main")


def maildir_queue() -> "NoReturn":
    start("maildir-queue", "qmail_smtpd.queue.maildir", status=QUEUE_NO_MEMORY)


def sendmail_queue() -> "NoReturn":
    start("sendmail-queue", "qmail_smtpd.queue.sendmail", status=QUEUE_NO_MEMORY)


def qmail_newmrh() -> "NoReturn":
    start("qmail-newmrh", "qmail_smtpd.recipients.newmrh")


def qmail_newvrt() -> "NoReturn":
    start("qmail-newvrt", "qmail_smtpd.recipients.newvrt")


def rcptcheck_maildir() -> "NoReturn":
    start("rcptcheck-maildir", "qmail_smtpd.recipients.maildir")


def rcptcheck_postfix() -> "NoReturn":
    start("rcptcheck-postfix", "qmail_smtpd.recipients.postfix")


def cmd5checkpw() -> "NoReturn":
    start("cmd5checkpw", "qmail_smtpd.auth.cmd5checkpw")


def checkusers() -> "NoReturn":
    start("checkusers", "qmail_smtpd.auth.checkusers")


def checkdovecot() -> "NoReturn":
    start("checkdovecot", "qmail_smtpd.auth.checkdovecot")


def relay_allow() -> "NoReturn":
    start("relay-allow", "qmail_smtpd.relay.allow")


def relay_check() -> "NoReturn":
    start("relay-check", "qmail_smtpd.relay.check")


def clearopensmtp() -> "NoReturn":
    start("clearopensmtp", "qmail_smtpd.relay.clear")


def relay_list() -> "NoReturn":
    start("relay-list", "qmail_smtpd.relay.cli")


def qmail_popup() -> "NoReturn":
    start("qmail-popup", "qmail_smtpd.pop3.popup")


def qmail_pop3d() -> "NoReturn":
    start("qmail-pop3d", "qmail_smtpd.pop3.pop3d")


def relaytest() -> "NoReturn":
    start("relaytest", "qmail_smtpd.probe.cli")


def relayreport() -> "NoReturn":
    start("relayreport", "qmail_smtpd.report.cli")
