"""The three modes, each giving a report: over the network, a program on a pipe, rules and the session behind them."""

import getpass
import os
import shutil
import sys
from email.utils import formatdate

from qmail_smtpd.probe import clients, gateways
from qmail_smtpd.probe.advice import Source, changes, proxy_notes, source_of
from qmail_smtpd.probe.home import Home
from qmail_smtpd.probe.judge import verdict
from qmail_smtpd.probe.mailbox import Mailbox
from qmail_smtpd.probe.network import Dialer, split
from qmail_smtpd.probe.options import BadUse, Options
from qmail_smtpd.probe.pipe import SERVER_IP, ProgramRunner, client_variables, without_client
from qmail_smtpd.probe.report import Part, Report, combine
from qmail_smtpd.probe.rules import Setup, ask_clients, with_log
from qmail_smtpd.probe.run import Examination, Plan, Progress, Run
from qmail_smtpd.probe.text import octets, printable
from qmail_smtpd.probe.vantage import describe
from qmail_smtpd.smtp.settings import Unreadable
from tcprules.lines import read_file
from tcprules.lookup import canonical, open_rules

OUTSIDE_IP = "192.0.2.1"
QMAIL_SMTPD = "qmail-smtpd"


class Unable(Exception):
    """Something could not be done. The text is that of the fatal line."""


def unable(what: str, error: OSError) -> Unable:
    """Return the exception for a failed operation, with djb's text for the error."""
    from tcprules.strerr import WORDS

    why = WORDS.get(error.errno or 0) if error.errno else None
    return Unable(f"unable to {what}: {why or error.strerror or error}")


def ask(options: Options, progress: Progress) -> Report:
    """Run the selected mode. Raise BadUse, Unable, NoConnection."""
    options.check()
    if options.rules:
        return ask_rules(options, options.rules, progress)
    return ask_pipe(options, progress) if options.pipe else ask_network(options, progress)


def ask_network(options: Options, progress: Progress) -> Report:
    """Test a server at an address."""
    host, port = split(options.words[0])
    home = home_of(options)
    listed = options.candidates(home)
    names = options.names(home, listed)
    mailbox = options.mailbox(home, listed, f"{printable(octets(host))} port {port}", user_name())
    probes = options.probes(mailbox)
    inside, hello, pace = options.inside_clients(), options.hello(), options.pace()
    try:
        dialer = Dialer(host, port, options.from_ip, pace.timeout)
        dialer.settle()
    except OSError as error:
        raise unable(f"connect to {printable(octets(host))} port {port}", error) from error
    server, client = dialer.peers.server, dialer.peers.client
    literal = b"IPv6:" + server.encode() if ":" in server else server.encode()
    plan = Plan(hello, names._replace(ip=literal, me=b"localhost"), host, pace, mailbox)
    examination = Run(dialer, plan).examine(probes, listed, progress)
    is_inside = not options.as_outside and (inside.includes(client) or client == server)
    reason = "the address that relaytest connects from"
    asked = f"{printable(octets(host))} ({server}) port {port}, asked from {describe(client)}"
    only = part(describe(client), reason, examination, is_inside)
    notes = gateways.note_on_client(client, only)
    if not options.from_ip and not options.as_outside:
        plain_plan = plan._replace(mailbox=None)
        notes += gateways.ask_bridges(dialer, plain_plan, options.plain(), listed)
    return report(only, home, asked, options, mailbox, notes)


def ask_pipe(options: Options, progress: Progress) -> Report:
    """Test a program, with the environment of a client behind a tcpserver without rules."""
    home = home_of(options)
    listed = options.candidates(home)
    names = options.names(home, listed)
    ip = address(options.from_ip or OUTSIDE_IP)
    argv = [program(options.words[0]), *options.words[1:]]
    mailbox = options.mailbox(home, listed, printable(octets(options.words[0])), user_name())
    environ = environment(options) | client_variables(ip.encode())
    plan = Plan(options.hello(), names._replace(ip=SERVER_IP.encode()), "", options.pace(), mailbox)
    runner = ProgramRunner(argv, environ)
    examination = with_log(runner, Run(runner, plan).examine(options.probes(mailbox), listed, progress))
    is_inside = not options.as_outside and options.inside_clients().includes(ip)
    asked = f"{printable(octets(' '.join(options.words)))} on a pipe, asked as {describe(ip)}"
    reason = "the client address that the program gets"
    return report(part(describe(ip), reason, examination, is_inside), home, asked, options, mailbox)


def ask_rules(options: Options, cdb: str, progress: Progress) -> Report:
    """Test the rules and the session behind them, for one client after another."""
    home = home_of(options)
    assert home is not None  # options.check
    listed = options.candidates(home)
    names = options.names(home, listed)
    words = options.words or (installed_path(QMAIL_SMTPD),)
    plan = Plan(options.hello(), names, "", options.pace())
    setup = Setup(
        argv=[program(words[0]), *words[1:]],
        base=environment(options),
        plan=plan,
        probes=options.probes(None),
        plain=options.plain(),
        listed=listed,
        inside=options.inside_clients(),
        as_outside=options.as_outside,
    )
    named = options.clients()
    try:
        rules = open_rules(octets(cdb))
        chosen = named or clients.default_clients(rules, gateways.relaying_clients(rules))
        parts = ask_clients(rules, chosen, setup, progress)
    except OSError as error:
        raise unable(f"read {printable(octets(cdb))}", error) from error
    command = printable(octets(" ".join(words)))
    asked = f"{printable(octets(cdb))} and {command}, with the home {printable(octets(home.path))}"
    source = read_source(options, cdb)
    advice = changes(parts, home, source, printable(octets(cdb)))
    notes = (*options.notes(None), *proxy_notes(parts, os.path.exists(home.control_path("authcleartext"))))
    if not options.as_outside:
        notes += gateways.notes_on_clients(parts)
    return Report(combine(parts), asked, tuple(parts), advice, notes, formatdate())


def part(client: str, reason: str, examination: Examination, is_inside: bool) -> Part:
    """Return the report's part for one client."""
    names, controls, results = examination
    word, why = verdict(controls, results, is_inside)
    return Part(client, reason, word, why, names, controls, results)


def report(
    only: Part, home: Home | None, asked: str, options: Options, mailbox: Mailbox | None, notes: tuple[str, ...] = ()
) -> Report:
    """Return the report on a single client."""
    advice = changes([only], home, None, "")
    return Report(combine([only]), asked, (only,), advice, options.notes(mailbox) + notes, formatdate())


def home_of(options: Options) -> Home | None:
    """Return the qmail home that --home names or, with --pipe, $QMAILHOME, or None. Raise Unable."""
    path = options.home or (os.environ.get("QMAILHOME") if options.pipe else None)
    try:
        return Home(path) if path else None
    except OSError as error:
        raise unable(f"read the control files of {printable(octets(path or ''))}", error) from error
    except Unreadable as error:
        raise Unable(f"{printable(error.why)}, in the home {printable(octets(path or ''))}") from error


def environment(options: Options) -> dict[bytes, bytes]:
    """Return the program's environment without the client's variables."""
    own = {b"QMAILHOME": octets(os.path.abspath(options.home))} if options.home else {}
    return without_client(os.environ) | own


def address(text: str) -> str:
    """Return a client's address in the notation of TCPREMOTEIP. Raise BadUse."""
    canonical_text = canonical(octets(text)) if ":" in text else clients.parse_quad(octets(text))
    if canonical_text is None:
        raise BadUse(f"not an address: {printable(octets(text))}")
    return canonical_text.decode()


def program(name: str) -> str:
    """Return the path of a program, found in this process's PATH or next to relaytest. Raise Unable.

    A PATH that a rule sets for a client is not used.
    """
    path = shutil.which(name) or shutil.which(installed_path(name))
    if path is None:
        raise Unable(f"unable to run {printable(octets(name))}: file does not exist")
    return os.path.abspath(path)


def installed_path(name: str) -> str:
    """Return the path of the program that is installed next to this one, or else its name."""
    own = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), name)
    return own if "/" not in name and os.access(own, os.X_OK) else name


def read_source(options: Options, cdb: str) -> Source | None:
    """Return the text of the rules: --source, or else the file next to the cdb if it exists. Raise Unable."""
    path = options.source or (cdb.removesuffix(".cdb") if cdb.endswith(".cdb") else "")
    try:
        return source_of(printable(octets(path)), list(read_file(path)))
    except OSError as error:
        if options.source:
            raise unable(f"read {printable(octets(path))}", error) from error
        return None


def user_name() -> str:
    """Return the name of the user that runs relaytest."""
    try:
        return printable(octets(getpass.getuser()))
    except (KeyError, OSError):
        return f"user {os.getuid()}"
