"""What must be so before an answer is believed: no service to nonsense, mail for a listed domain is taken."""

import secrets
from collections.abc import Callable, Sequence

from qmail_smtpd.probe.ask import NONSENSE_COMMAND
from qmail_smtpd.probe.conversation import Conversation, Reply
from qmail_smtpd.probe.judge import Control
from qmail_smtpd.probe.probes import Names, fill, is_name

GREETING, COMMAND, LISTED, RECIPIENTS = "greeting", "invalid command", "listed recipient", "impossible recipients"

# No server that looks at addresses takes all of them: notqmail refuses the second, mailfront the first and the third.
IMPOSSIBLE = (b"RCPT TO:<>", b"RCPT TO:<" + b"x" * 1900 + b"@{out}>", b"RCPT TO:<{user}@..>")

TAKES_ANY = "it takes any recipient, even impossible ones: what it relays only a message can tell (--send)"
LOGIN_FIRST = 530  # RFC 4954 section 6, RFC 3207 section 4


def own_name(greeting: Reply, default: bytes) -> bytes:
    """The name that a server gives itself: the first word of its greeting, if that is one (as nmap takes it)."""
    words = greeting.lines[0][4:].split() if greeting.lines else []
    return words[0] if words and is_name(words[0]) else default


def candidates(names: Names, asked: str) -> list[bytes]:
    """Domains that the server may take mail for where nobody has said one: its names, and what they are below."""
    found: list[bytes] = []
    for name in (names.me, asked.encode("ascii", "replace")):
        for domain in (name, name.partition(b".")[2]):
            if is_name(domain) and b"." in domain and not domain.replace(b".", b"").isdigit() and domain not in found:
                found.append(domain)
    return found


def ask_command(conversation: Conversation) -> Control:
    """A command that does not exist must be refused."""
    reply = conversation.command(NONSENSE_COMMAND + b"-" + secrets.token_hex(4).encode())
    if reply.kind == 5:
        return Control(COMMAND, True, "refused", reply)
    why = reply.trouble or "it does not refuse a command that does not exist: its answers mean nothing"
    return Control(COMMAND, False, why, reply)


def ask_listed(conversation: Conversation, names: Names, listed: Sequence[bytes]) -> tuple[Control, Names]:
    """A recipient at a listed domain must be taken; the names say from then on which domain that is."""
    reply = begin(conversation, names)
    if reply.kind != 2:
        return Control(LISTED, False, reply.trouble or why_no_sender(reply), reply), names
    for word in listed:
        address = word if b"@" in word else b"postmaster@" + word
        reply = conversation.command(b"RCPT TO:<" + address + b">")
        if reply.kind == 2:
            names = names._replace(listed=address.rpartition(b"@")[2], inside=address)
            return Control(LISTED, True, f"{address.decode('ascii', 'replace')} is taken", reply), names
        if reply.kind == 0:
            break
    tried = b", ".join(listed).decode("ascii", "replace")
    why = f"it takes no mail for {tried}: name a domain that it takes mail for with --listed"
    if reply.kind == 4:
        why = f"it puts off mail for {tried}: ask again later (--again)"
    if not listed:
        why = "name a domain that it takes mail for with --listed"
    return Control(LISTED, False, reply.trouble or why, reply), names


def why_no_sender(reply: Reply) -> str:
    """Why no recipient can be asked about."""
    if reply.code == LOGIN_FIRST:
        return "it wants a login, or TLS, before any mail: ask at the port where mail for your domains comes in"
    return "it puts off every sender: ask again later (--again)" if reply.kind == 4 else "it takes no sender"


def ask_recipients(conversation: Conversation, fresh: Callable[[], Conversation], names: Names) -> Control:
    """Some recipient that cannot be must be refused. No answer is no refusal: the next is asked on a new connection."""
    found = Control(RECIPIENTS, False, "")
    for template in IMPOSSIBLE:
        begin(conversation, names)
        reply = conversation.command(fill(template, names))
        if reply.kind in (4, 5):
            return Control(RECIPIENTS, True, "refused", reply)
        if reply.kind == 2 or not found.why:
            found = Control(RECIPIENTS, False, reply.trouble or TAKES_ANY, reply)
        if reply.trouble:
            conversation = fresh()
    return found


def begin(conversation: Conversation, names: Names) -> Reply:
    """A new transaction with a null sender, or another where that is refused. The answer to MAIL."""
    conversation.command(b"RSET")
    reply = conversation.command(b"MAIL FROM:<>")
    return reply if reply.kind in (0, 2) else conversation.command(fill(b"MAIL FROM:<{sender}@{out}>", names))
