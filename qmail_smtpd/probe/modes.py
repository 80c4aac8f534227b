"""The three ways to ask: over the network, a program on a pipe, the rules with the session behind them -> a report."""

import getpass
import os
import shutil
import sys
from email.utils import formatdate

from qmail_smtpd.probe import clients
from qmail_smtpd.probe.advice import Source, changes, source_of
from qmail_smtpd.probe.home import Home
from qmail_smtpd.probe.judge import verdict
from qmail_smtpd.probe.mailbox import Mailbox
from qmail_smtpd.probe.network import Dialer, split
from qmail_smtpd.probe.options import BadUse, Options
from qmail_smtpd.probe.pipe import SERVER_IP, Piper, base, client_variables
from qmail_smtpd.probe.report import Part, Report, together
from qmail_smtpd.probe.rules import Ask, ask_clients, with_log
from qmail_smtpd.probe.run import Examination, Plan, Run, Tell
from qmail_smtpd.probe.text import octets, shown
from qmail_smtpd.probe.vantage import described
from tcprules.lookup import canonical, open_rules

STRANGER = "192.0.2.1"
QMAIL_SMTPD = "qmail-smtpd"


class Unable(Exception):
    """What could not be done, and why: the text of the fatal line."""


def unable(what: str, error: OSError) -> Unable:
    """The words for it."""
    from tcprules.strerr import WORDS

    why = WORDS.get(error.errno or 0) if error.errno else None
    return Unable(f"unable to {what}: {why or error.strerror or error}")


def ask(options: Options, tell: Tell) -> Report:
    """Whichever way is wanted. Raises BadUse, Unable, NoConnection."""
    options.check()
    if options.rules:
        return ask_rules(options, options.rules, tell)
    return ask_pipe(options, tell) if options.pipe else ask_network(options, tell)


def ask_network(options: Options, tell: Tell) -> Report:
    """A server at an address."""
    host, port = split(options.words[0])
    home = home_of(options)
    listed = options.candidates(home)
    names = options.names(home, listed)
    mailbox = options.mailbox(home, listed, f"{shown(octets(host))} port {port}", user_name())
    probes = options.probes(mailbox)
    inside, hello, pace = options.own(), options.hello(), options.pace()
    try:
        dialer = Dialer(host, port, options.from_ip, pace.timeout)
        dialer.settle()
    except OSError as error:
        raise unable(f"connect to {shown(octets(host))} port {port}", error) from error
    server, client = dialer.peers.server, dialer.peers.client
    literal = b"IPv6:" + server.encode() if ":" in server else server.encode()
    plan = Plan(hello, names._replace(ip=literal, me=b"localhost"), host, pace, mailbox)
    found = Run(dialer, plan).examine(probes, listed, tell)
    is_inside = not options.as_outside and (inside.has(client) or client == server)
    reason = "the address that relaytest asks from"
    asked = f"{shown(octets(host))} ({server}) port {port}, asked from {described(client)}"
    return report(part(described(client), reason, found, is_inside), home, asked, options, mailbox)


def ask_pipe(options: Options, tell: Tell) -> Report:
    """A program, as a client would find it behind a tcpserver without rules."""
    home = home_of(options)
    listed = options.candidates(home)
    names = options.names(home, listed)
    ip = address(options.from_ip or STRANGER)
    argv = [program(options.words[0]), *options.words[1:]]
    mailbox = options.mailbox(home, listed, shown(octets(options.words[0])), user_name())
    environ = environment(options) | client_variables(ip.encode())
    plan = Plan(options.hello(), names._replace(ip=SERVER_IP.encode()), "", options.pace(), mailbox)
    piper = Piper(argv, environ)
    found = with_log(piper, Run(piper, plan).examine(options.probes(mailbox), listed, tell))
    is_inside = not options.as_outside and options.own().has(ip)
    asked = f"{shown(octets(' '.join(options.words)))} on a pipe, asked as {described(ip)}"
    return report(
        part(described(ip), "the client that the program is told of", found, is_inside), home, asked, options, mailbox
    )


def ask_rules(options: Options, cdb: str, tell: Tell) -> Report:
    """The rules, and the session behind them, for one client after another."""
    home = home_of(options)
    assert home is not None  # options.check
    listed = options.candidates(home)
    names = options.names(home, listed)
    words = options.words or (beside(QMAIL_SMTPD),)
    plan = Plan(options.hello(), names, "", options.pace())
    ask_all = Ask(
        argv=[program(words[0]), *words[1:]],
        base=environment(options),
        plan=plan,
        probes=options.probes(None),
        plain=options.plain(),
        listed=listed,
        inside=options.own(),
    )
    named = options.clients()
    try:
        rules = open_rules(octets(cdb))
        parts = ask_clients(rules, named or clients.default_clients(rules), ask_all, tell)
    except OSError as error:
        raise unable(f"read {shown(octets(cdb))}", error) from error
    asked = f"{shown(octets(cdb))} and {shown(octets(' '.join(words)))}, with the home {shown(octets(home.path))}"
    source = read_source(options, cdb)
    found = changes(parts, home, source, shown(octets(cdb)))
    return Report(together(parts), asked, tuple(parts), found, options.notes(None), formatdate())


def part(who: str, reason: str, found: Examination, is_inside: bool) -> Part:
    """One vantage."""
    judged = verdict(found.controls, found.results, is_inside)
    return Part(who, reason, judged.word, judged.why, found.names, found.controls, found.results)


def report(only: Part, home: Home | None, asked: str, options: Options, mailbox: Mailbox | None) -> Report:
    """Of one vantage."""
    found = changes([only], home, None, "")
    return Report(together([only]), asked, (only,), found, options.notes(mailbox), formatdate())


def home_of(options: Options) -> Home | None:
    """The qmail home, where one is named, or stands in the environment of a program on a pipe. Raises Unable."""
    path = options.home or (os.environ.get("QMAILHOME") if options.pipe else None)
    try:
        return Home(path) if path else None
    except OSError as error:
        raise unable(f"read the control files of {shown(octets(path or ''))}", error) from error


def environment(options: Options) -> dict[bytes, bytes]:
    """What the program finds beside what is said of its client."""
    own = {b"QMAILHOME": octets(os.path.abspath(options.home))} if options.home else {}
    return base(os.environ) | own


def address(text: str) -> str:
    """A client's address as TCPREMOTEIP has it. Raises BadUse."""
    found = canonical(octets(text)) if ":" in text else clients.dotted(octets(text))
    if found is None:
        raise BadUse(f"not an address: {shown(octets(text))}")
    return found.decode()


def program(name: str) -> str:
    """The file of a program: in our PATH, not in that of a client's environment, or beside us. Raises Unable."""
    found = shutil.which(name) or shutil.which(beside(name))
    if found is None:
        raise Unable(f"unable to run {shown(octets(name))}: file does not exist")
    return os.path.abspath(found)


def beside(name: str) -> str:
    """The program that is installed with this one, else whatever has its name."""
    own = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), name)
    return own if "/" not in name and os.access(own, os.X_OK) else name


def read_source(options: Options, cdb: str) -> Source | None:
    """The text of the rules: --source, else what stands beside the cdb, if anything does. Raises Unable."""
    path = options.source or (cdb.removesuffix(".cdb") if cdb.endswith(".cdb") else "")
    try:
        with open(path, "rb") as file:
            return source_of(shown(octets(path)), file.read())
    except OSError as error:
        if options.source:
            raise unable(f"read {shown(octets(path))}", error) from error
        return None


def user_name() -> str:
    """Who runs this."""
    try:
        return shown(octets(getpass.getuser()))
    except (KeyError, OSError):
        return f"user {os.getuid()}"
