"""The controls: a server must refuse nonsense and accept mail for a listed domain before its answers count."""

import secrets
from collections.abc import Callable, Sequence

from qmail_smtpd.probe.ask import NONSENSE_COMMAND
from qmail_smtpd.probe.conversation import Conversation, Reply
from qmail_smtpd.probe.judge import Control
from qmail_smtpd.probe.probes import Names, fill, is_name

GREETING, COMMAND, LISTED, RECIPIENTS = "greeting", "invalid command", "listed recipient", "impossible recipients"

# A server that looks at addresses refuses one of them: notqmail the second, mailfront the first and the third.
IMPOSSIBLE = (b"RCPT TO:<>", b"RCPT TO:<" + b"x" * 1900 + b"@{out}>", b"RCPT TO:<{user}@..>")

TAKES_ANY = "it accepts any recipient, even impossible ones: only a message can show what it relays (--send)"
LOGIN_FIRST = 530  # RFC 4954 section 6, RFC 3207 section 4


def own_name(greeting: Reply, default: bytes) -> bytes:
    """Return the server's own name, the first word of its greeting if that is a name. nmap does the same."""
    words = greeting.lines[0][4:].split() if greeting.lines else []
    return words[0] if words and is_name(words[0]) else default


def candidates(names: Names, asked: str) -> list[bytes]:
    """Return domains that the server may accept mail for, if none is named: its names and their parent domains."""
    domains: list[bytes] = []
    for name in (names.me, asked.encode("ascii", "replace")):
        for domain in (name, name.partition(b".")[2]):
            if is_name(domain) and b"." in domain and not domain.replace(b".", b"").isdigit() and domain not in domains:
                domains.append(domain)
    return domains


def ask_command(conversation: Conversation) -> Control:
    """Send a command that does not exist, which must be refused."""
    reply = conversation.command(NONSENSE_COMMAND + b"-" + secrets.token_hex(4).encode())
    if reply.kind == 5:
        return Control(COMMAND, True, "refused", reply)
    why = reply.failure or "it does not refuse a command that does not exist: its answers mean nothing"
    return Control(COMMAND, False, why, reply)


def ask_listed(conversation: Conversation, names: Names, listed: Sequence[bytes]) -> tuple[Control, Names]:
    """Send a recipient at a listed domain, which must be accepted. The returned names include that domain."""
    reply = begin(conversation, names)
    if reply.kind != 2:
        return Control(LISTED, False, reply.failure or why_no_sender(reply), reply), names
    for word in listed:
        address = word if b"@" in word else b"postmaster@" + word
        reply = conversation.command(b"RCPT TO:<" + address + b">")
        if reply.kind == 2:
            names = names._replace(listed=address.rpartition(b"@")[2], inside=address)
            return Control(LISTED, True, f"{address.decode('ascii', 'replace')} is accepted", reply), names
        if reply.kind == 0:
            break
    tried = b", ".join(listed).decode("ascii", "replace")
    why = f"it accepts no mail for {tried}: name a domain that it accepts mail for with --listed"
    if reply.kind == 4:
        why = f"it defers mail for {tried}: try again later (--again)"
    if not listed:
        why = "name a domain that it accepts mail for with --listed"
    return Control(LISTED, False, reply.failure or why, reply), names


def why_no_sender(reply: Reply) -> str:
    """Return why no recipient can be tested."""
    if reply.code == LOGIN_FIRST:
        return "it requires a login or TLS before any mail: test the port to which mail for your domains is sent"
    return "it defers every sender: try again later (--again)" if reply.kind == 4 else "it accepts no sender"


def ask_recipients(conversation: Conversation, fresh: Callable[[], Conversation], names: Names) -> Control:
    """Send impossible recipients, of which at least one must be refused.

    A missing reply is no refusal: the next recipient is sent on a new connection.
    """
    control = Control(RECIPIENTS, False, "")
    for template in IMPOSSIBLE:
        begin(conversation, names)
        reply = conversation.command(fill(template, names))
        if reply.kind in (4, 5):
            return Control(RECIPIENTS, True, "refused", reply)
        if reply.kind == 2 or not control.why:
            control = Control(RECIPIENTS, False, reply.failure or TAKES_ANY, reply)
        if reply.failure:
            conversation = fresh()
    return control


def begin(conversation: Conversation, names: Names) -> Reply:
    """Begin a transaction with the null sender, or with another one if that is refused. Return the reply to MAIL."""
    conversation.command(b"RSET")
    reply = conversation.command(b"MAIL FROM:<>")
    return reply if reply.kind in (0, 2) else conversation.command(fill(b"MAIL FROM:<{sender}@{out}>", names))
