"""rblsmtpd: refuse mail from a client that is on a DNS block list, or run the next program."""

import _socket as socket  # see address/operands
import os
import sys
import time

from tcprules import strerr
from tcpserver import chain
from tcpserver.tools import refusal
from tcpserver.tools.blocklists.zones import Zone, reversed_ipv4, reversed_ipv6
from tcpserver.tools.options import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from tcpserver.tools.blocklists.lookup import Lookup

PROGRAM = "rblsmtpd"
LETTERS = "bBcCt:r:a:w:WT:"
USAGE = "[ -b ] [ -R ] [ -t timeout ] [ -r base ] [ -a base ] smtpd [ arg ... ]"  # 0.88's, though it knows no -R
ACCEPTED = b""
SPOKE_FIRST = b"554 SMTP protocol error: input before the greeting"
LOOKUP_FAILED = b"temporary RBL lookup error"  # rblsmtpd.c
LONGEST_TEXT = 200  # rblsmtpd.c
LONGEST_DELAY = 3600  # seconds
DRAIN = 2  # seconds that a client has to read the 554
LOADED = 20 << 20  # bytes of address space that must be left: dnspython takes up to 13 MB, the rest is for the server
MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2

ready: list[bool] = []  # not empty if before_fork has loaded everything
warned: set[str] = set()  # lists whose odd answers this process has reported


class Settings:
    """What the options say, with 0.88's defaults."""

    __slots__ = ("delay", "lookup_timeout", "timeout", "zones")

    def __init__(self) -> None:
        self.timeout = 60  # seconds. rblsmtpd.c
        self.lookup_timeout = 10  # seconds for all lists together. 0.88 waits up to 60 for each
        self.delay = 0
        self.zones: list[Zone] = []


def main() -> "NoReturn":
    """Run the program."""
    reply = check(os.environb)
    if reply:
        os._exit(0)
    fail(chain.become_rest())


def serve_connection(environ: dict[bytes, bytes]) -> int:
    """Do the same as main in a process that serves one client after the other (tcpserver --reuse)."""
    if check(environ):
        return 0
    program = sys.argv[1:]
    try:
        return chain.serve_rest(environ)
    except OSError as error:
        sys.argv[1:] = program
        fail(error)


def before_fork(_: "Mapping[bytes, bytes]") -> None:
    """Load what the look-ups need. Raises ImportError, or OSError if a limit leaves too little memory for that."""
    from tcpserver.tools.blocklists import answers, lookup, servers  # noqa: F401  (for the processes that are forked)

    if not ready:
        from mmap import mmap

        mmap(-1, LOADED).close()  # half a dnspython would stay in memory, and leave nothing for the server
        answers.warm_up()
        ready.append(True)


def fail(error: OSError) -> "NoReturn":
    """Report that the next program cannot be run, and exit."""
    strerr.die(strerr.TEMPORARY, PROGRAM, ": fatal: unable to run ", sys.argv[1], ": ", strerr.reason(error))


def check(environ: "Mapping[bytes, bytes]") -> bool:
    """Refuse the client, or leave the next program's words in sys.argv. Return whether the client was refused."""
    options = Options(PROGRAM, LETTERS, USAGE)
    settings = parse(options, environ)
    if not options.operands:
        options.usage()
    sys.argv[1:] = options.operands
    ip = environ.get(b"TCPREMOTEIP", b"")
    if b"RBLSMTPD" in environ:
        reply = of_variable(environ[b"RBLSMTPD"])
    elif settings.zones or settings.delay:
        reply = of_lists(settings, ip, dict(environ))
    else:
        reply = ACCEPTED
    if reply == SPOKE_FIRST and not refusal.receive(time.monotonic()):
        return True  # it has left
    if reply:
        refuse(reply, ip, settings)
    return bool(reply)


def parse(options: Options, environ: "Mapping[bytes, bytes]") -> Settings:
    """The options' values. -b and -c concern the lists after them. Ends the program if they make no sense."""
    settings, bounces, fails_closed = Settings(), False, False
    for letter, argument in options:
        if letter in "bB":
            bounces = letter == "b"
        elif letter in "cC":
            fails_closed = letter == "c"
        elif letter == "t":
            settings.timeout = options.number(letter, argument)
        elif letter == "T":
            settings.lookup_timeout = options.number(letter, argument, LONGEST_DELAY)
        elif letter == "w":
            settings.delay = options.number(letter, argument, LONGEST_DELAY)
        elif letter == "W":
            settings.delay = greet_delay(options, environ)
        else:
            settings.zones.append(zone(options, letter, argument, bounces, fails_closed))
    return settings


def greet_delay(options: Options, environ: "Mapping[bytes, bytes]") -> int:
    """-W: the seconds of the next word, if that is a number, or of $GREETDELAY (ucspi-tcp6)."""
    if options.operands and options.operands[0].isascii() and options.operands[0].isdigit():
        return options.number("W", options.operands.pop(0), LONGEST_DELAY)
    text = os.fsdecode(environ.get(b"GREETDELAY", b"0"))
    return options.number("W", text, LONGEST_DELAY)


def zone(options: Options, letter: str, text: str, bounces: bool, fails_closed: bool) -> Zone:
    """-r or -a. Ends the program if it names no list."""
    try:
        return Zone(text, letter == "a", bounces, fails_closed)
    except ValueError as error:
        options.refuse(f"-{letter} needs a zone, such as zen.example.org=127.0.0.[2..11]: {text}: {error}")


def of_variable(text: bytes) -> bytes:
    """The reply that $RBLSMTPD asks for."""
    if not text:
        return ACCEPTED
    return b"553 " + text[1:] if text.startswith(b"-") else b"451 " + text


def of_lists(settings: Settings, ip: bytes, environ: dict[bytes, bytes]) -> bytes:
    """The reply that the lists ask for, or SPOKE_FIRST for a client that does not wait for the greeting."""
    from tcpserver.tools.blocklists import lookup
    from tcpserver.tools.blocklists.servers import RESOLV_CONF, servers

    if settings.zones:
        require_dnspython()
    client = labels(ip)
    zones = settings.zones if client else []
    watched = 0 if settings.delay else None
    try:
        asked = servers(environ) if zones else []
    except OSError as error:
        log(ip, f"unable to read {RESOLV_CONF}: {strerr.reason(error)}".encode())
        return b"451 " + LOOKUP_FAILED
    found = lookup.ask(zones, client, asked, settings.lookup_timeout, settings.delay, watched)
    if found is None:
        return SPOKE_FIRST
    if client or not settings.zones:
        return decide(found, ip)
    say("warning: TCPREMOTEIP is no address, no list is asked")
    return b"451 " + LOOKUP_FAILED if any(zone.fails_closed for zone in settings.zones) else ACCEPTED


def require_dnspython() -> None:
    """End the program without dnspython. The package alone costs nothing; its modules are loaded with an answer."""
    try:
        import dns as dns
    except ImportError:
        hint = f": fatal: -r and -a need dnspython: {sys.executable} -m pip install dnspython"
        strerr.die(strerr.TEMPORARY, PROGRAM, hint)


def labels(ip: bytes) -> str:
    """The client's labels in a list, or an empty text if it has no address."""
    try:
        if b":" not in ip:
            return reversed_ipv4(socket.inet_pton(socket.AF_INET, ip.decode("ascii")))
        address = socket.inet_pton(socket.AF_INET6, ip.partition(b"%")[0].decode("ascii"))
    except (OSError, ValueError):
        return ""
    if address.startswith(MAPPED):
        return reversed_ipv4(address[len(MAPPED) :])
    return reversed_ipv6(address)


def decide(lookups: "list[Lookup]", ip: bytes) -> bytes:
    """The reply: the first list that lists the client decides, as in rblsmtpd.c, which asks one after the other."""
    may_bounce = True
    for found in lookups:
        zone = found.zone
        report(found, ip)
        if found.has_failed:
            may_bounce = False
            fails_closed = zone.fails_closed or found.lack  # a limit of the run script must not switch a list off
            if zone.allows and not fails_closed:
                return ACCEPTED
            if not zone.allows and fails_closed:
                return b"451 " + LOOKUP_FAILED
        elif found.is_listed and zone.allows:
            return ACCEPTED
        elif found.is_listed:
            code = b"553 " if zone.bounces and may_bounce else b"451 "
            return code + (found.text or b"%IP% is listed by " + zone.name.encode())
    return ACCEPTED


def report(found: "Lookup", ip: bytes) -> None:
    """Report a list without an answer, and once each list whose answer has an unexpected address."""
    name = found.zone.name
    if found.lack:
        log(ip, f"unable to ask {name}: {strerr.reason(found.lack)}".encode())
    elif found.has_failed:
        log(ip, b"no answer from " + name.encode())
    if found.answered_otherwise and name not in warned:
        warned.add(name)
        address = ".".join(map(str, found.answered_otherwise))
        say(f"warning: {name} answers {address}, which lists nobody: does it serve this resolver?")


def refuse(reply: bytes, ip: bytes, settings: Settings) -> None:
    """Log the refusal, and send it to the client."""
    code, text = reply[:4], reply[4:].replace(b"%IP%", ip)[:LONGEST_TEXT]
    message = printable(code + text)
    log(ip, message)
    if reply == SPOKE_FIRST:
        refusal.reply_and_drain(message + b"\r\n", DRAIN)
    elif settings.timeout:
        refusal.converse(message + b"\r\n", settings.timeout)
    else:
        refusal.reply_and_drain(message + b"\r\n", 0)


def log(ip: bytes, text: bytes) -> None:
    """Write a line about this client to descriptor 2."""
    say(printable(ip), f" pid {os.getpid()}: ", text)


def say(*text: str | bytes) -> None:
    """Write a line to descriptor 2, unless that is the client's connection, as under inetd."""
    if not strerr.goes_to_client():
        strerr.say(PROGRAM, ": ", *text)


def printable(text: bytes) -> bytes:
    """The text with `?` in place of what is not printable ASCII (rblsmtpd.c)."""
    return bytes(byte if 32 <= byte <= 126 else 63 for byte in text)
