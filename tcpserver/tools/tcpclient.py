"""tcpclient: connect to a TCP server and run a program, with descriptors 6 and 7 for the connection."""

import os
import time

from tcprules import strerr
from tcpserver import chain, environ
from tcpserver.address.operands import MAX_PORT, Unable, ipv6_literal, literal
from tcpserver.child import ident, names
from tcpserver.tools.connecting import (
    READ,
    WRITE,
    Connected,
    Failed,
    Settings,
    checked_port,
    connect,
    failed,
    hand_over,
)
from tcpserver.tools.options import MAX_INT, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

LETTERS = "dDvqQhHrRi:p:t:T:l:"
USAGE = (
    "[ -hHrRdDqQv ] [ -i localip ] [ -p localport ] [ -T timeoutconn ] [ -l localname ] [ -t timeoutinfo ]"
    " host port program"
)
NAMES_PATIENCE = 60  # seconds for both names together. 0.88's own resolver gives each a minute


def main() -> "NoReturn":
    """Run the program."""
    for descriptor in (READ, WRITE):  # before anything else gets these numbers, as tcpclient.c
        try:
            os.close(descriptor)
        except OSError:
            pass
    options = Options("tcpclient", LETTERS, USAGE)
    settings = parse(options)
    if len(options.operands) < 2:  # a bad port is reported before a missing program
        options.usage()
    try:
        failed(run(options, settings))
    except Failed as failure:
        os._exit(failure.status)
    os._exit(strerr.TEMPORARY)


def run(options: Options, settings: Settings) -> str:
    """Connect and become the program. Return why it cannot be run. Raises Failed."""
    host, port, *program = options.operands
    number = checked_port(port)
    if not program:
        options.usage()
    connected = connect(host, number, settings)
    environment = dict(os.environb)
    environ.edit(environment, variables(connected, settings))
    hand_over(connected.link)
    error = chain.become([os.fsencode(word) for word in program], environment)
    return f"unable to run {program[0]}: {strerr.reason(error)}"


def parse(options: Options) -> Settings:
    """The options' values. Ends the program if they make no sense."""
    settings, verbosity = Settings(), "Q"
    for letter, argument in options:
        if letter in "qQv":
            verbosity = letter
        elif letter in "dD":
            settings.nodelay = letter == "D"
        elif letter in "hH":
            settings.asks_host = letter == "h"
        elif letter in "rR":
            settings.asks_info = letter == "r"
        elif letter == "l":
            settings.local_name = os.fsencode(argument)
        elif letter == "t":
            settings.ident_timeout = options.number(letter, argument)
        elif letter == "p":
            settings.local_port = options.number(letter, argument, MAX_PORT)
        elif letter == "T":
            settings.patience, settings.more_patience = patience(options, argument)
        else:
            settings.local_ip = local_ip(options, argument)
    settings.is_verbose = verbosity == "v"
    if verbosity == "q":
        strerr.quiet()
    return settings


def patience(options: Options, text: str) -> tuple[int, int]:
    """-T x+y, or x alone: seconds."""
    first, plus, second = text.partition("+")
    return options.number("T", first), options.number("T", second, MAX_INT) if plus else 0


def local_ip(options: Options, text: str) -> str:
    """-i: an address of this host."""
    octets = text.split(".")
    if ":" not in text and not (len(octets) == 4 and all(octet.isascii() and octet.isdigit() for octet in octets)):
        options.usage()
    try:
        return ipv6_literal(text) if ":" in text else literal(text)
    except Unable:
        options.usage()


def variables(connected: Connected, settings: Settings) -> environ.Edits:
    """The program's variables, in tcpclient.c's order. Asks for names and for the user, if that is wanted."""
    facts = connected.facts
    ask(facts, settings)
    ordered = dict(environ.variables(facts))
    for name in (b"TCPLOCALIP", b"TCPREMOTEIP"):  # tcpclient.c sets them after their ports
        ordered[name] = ordered.pop(name)
    first = (b"PROTO", b"TCPLOCALPORT", b"TCPLOCALIP", b"TCPLOCALHOST", b"TCPREMOTEPORT", b"TCPREMOTEIP")
    return [(name, ordered.pop(name)) for name in first] + list(ordered.items())


def ask(facts: environ.Facts, settings: Settings) -> None:
    """Find out the names of both ends and the server's user. A name that does not exist is empty (dns_name.c)."""
    local = facts.local_ip if settings.local_name is None else None
    remote = facts.remote_ip if settings.asks_host else None
    facts.local_host = settings.local_name
    deadline = time.monotonic() + NAMES_PATIENCE
    try:
        if local or remote:
            found = names.ask(local, remote, False, deadline)
            absent = None if found.late else b""
            facts.local_host = (found.local or absent) if local else settings.local_name
            facts.remote_host = (found.remote or absent) if remote else None
        if settings.asks_info:
            facts.remote_info = ident.ask(facts, settings.ident_timeout, time.monotonic() + settings.ident_timeout)
    except names.Unasked:
        pass  # the variables stay unset
