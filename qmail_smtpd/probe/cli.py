"""The command line of relaytest: words -> a report, in the form that is wanted, and an exit code."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import TracebackType
from typing import Any, NoReturn

import click

from qmail_smtpd.probe import lines
from qmail_smtpd.probe.connection import NoConnection
from qmail_smtpd.probe.listing import listing
from qmail_smtpd.probe.modes import Unable, ask, unable
from qmail_smtpd.probe.network import BadHost
from qmail_smtpd.probe.options import BadUse, Options
from qmail_smtpd.probe.page import page
from qmail_smtpd.probe.pagefile import PageFile
from qmail_smtpd.probe.report import Report
from qmail_smtpd.probe.run import Tell
from qmail_smtpd.probe.text import octets, shown
from qmail_smtpd.probe.tricks import trick_probes
from tcprules import strerr

FATAL = "relaytest: fatal: "
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PROGRAM_FOLLOWS = ("--pipe", "--rules")


class Stopped(BaseException):
    """A signal that ends this process, once it has cleaned up."""


class Command(click.Command):
    """Options may stand behind HOST; but behind PROGRAM they are the program's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = not any(word.partition("=")[0] in PROGRAM_FOLLOWS for word in args)
        return super().parse_args(ctx, args)


def stop(number: int, frame: object) -> NoReturn:
    """Once: what comes while we clean up is too late."""
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    raise Stopped(number)


def crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> NoReturn:
    """A fault of ours is shown as one: but Python's exit code for it is 1, which would call the relay open."""
    sys.__excepthook__(kind, error, trace)
    os._exit(strerr.TEMPORARY)


def occupy_standard_descriptors() -> None:
    """If one of 0 to 2 were closed, a connection would get its number, and the server our report.

    Reading and writing fail with EBADF, as on a closed one.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor else os.O_WRONLY)


def main() -> NoReturn:
    """The console script."""
    sys.excepthook = crash
    occupy_standard_descriptors()
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        status = relaytest.main(standalone_mode=False)
        os._exit(status or 0)
    except (click.UsageError, BadUse, BadHost) as bad:
        text = bad.format_message() if isinstance(bad, click.UsageError) else str(bad)
        strerr.die(strerr.PERMANENT, FATAL, shown(octets(text)), " (relaytest --help)")
    except Unable as failure:
        strerr.die(strerr.TEMPORARY, FATAL, str(failure))
    except NoConnection as none:
        strerr.die(strerr.TEMPORARY, FATAL, f"unable to talk to the server: {none}")
    except Stopped as stopped:
        signal.signal(stopped.args[0], signal.SIG_DFL)
        os.kill(os.getpid(), stopped.args[0])
    os._exit(strerr.TEMPORARY)  # not reached: the signal has ended us


@click.command(cls=Command, context_settings={"help_option_names": ["--help", "-h"]})
@click.option("--pipe", is_flag=True, help="ask PROGRAM ARG... on a pipe, in the environment of a stranger")
@click.option("--rules", metavar="CDB", help="ask what tcpserver with these rules, and qmail-smtpd, let each client do")
@click.option("--home", metavar="DIR", help="the qmail home, with control/: for --rules, and for advice")
@click.option("--source", metavar="FILE", help="--rules: the text of the rules (default: CDB without .cdb)")
@click.option("--client", metavar="[INFO@]IP[=HOST]", multiple=True, help="--rules: ask about this client")
@click.option("--from-ip", metavar="IP", help="the address to ask from; --pipe: that the program is told (192.0.2.1)")
@click.option("--as-outside", is_flag=True, help="take where I am for outside, whatever the address looks like")
@click.option("--inside", metavar="NETWORK", multiple=True, help="clients that may relay (or =HOST, =.SUFFIX)")
@click.option(
    "--listed", metavar="DOMAIN", multiple=True, help="a domain, or an address, that the server takes mail for"
)
@click.option("--outside", metavar="DOMAIN", help="a domain that it takes none for (example.net)")
@click.option("--auth", is_flag=True, help="try logins, too: they may be counted as an attack")
@click.option("--send", metavar="ADDRESS", help="send messages, to this address, one for each kind of probe at most")
@click.option("--helo", metavar="NAME", help="the name to give in EHLO (relaytest.HOST)")
@click.option("--only", metavar="PATTERN", multiple=True, help="ask only these probes: null/*, */percent*, xclient")
@click.option("--pause", metavar="SECONDS", type=click.FloatRange(0, 60), help="between probes")
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(0.1, 600), help="for one answer (30)")
@click.option("--again", metavar="SECONDS", type=click.FloatRange(0, 3600), help="until a 4xx is asked again (30)")
@click.option("--total", metavar="SECONDS", type=click.FloatRange(1, 86400), help="for the whole run (3600)")
@click.option("--verbose", "-v", is_flag=True, help="a line for every probe")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
@click.option("--html", metavar="FILE", help="write a page, too")
@click.option("--list", "list_probes", is_flag=True, help="print the catalogue of probes and end")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="HOST[:PORT] | PROGRAM [ARG]...")
def relaytest(verbose: bool, as_json: bool, html: str | None, list_probes: bool, **typed: Any) -> int:
    """Is this server an open relay? Exit code 0: closed, 1: open, 2: cannot tell, 111: no connection."""
    if list_probes:
        write("\n".join(listing(trick_probes())))
        return 0
    options = Options(**typed)
    options.check()
    with PageFile(html) as file:
        with progress() as tell:
            report = ask(options, tell)
        file.write(page(report))
    show(report, verbose, as_json)
    return report.verdict.exit


def show(report: Report, verbose: bool, as_json: bool) -> None:
    """Print it: for a program, for a person at a terminal, for whoever reads lines."""
    if as_json:
        write(lines.as_json(report))
    elif not verbose and os.isatty(1) and find_spec("rich"):
        from qmail_smtpd.probe import table

        write(table.drawn(report))
    else:
        write("\n".join(lines.plain(report, verbose)))


def write(text: str) -> None:
    """To descriptor 1. Raises Unable: click would make 1 of a broken pipe, which says that the relay is open."""
    data = (text.rstrip("\n") + "\n").encode("utf-8", "replace")
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError as error:
        raise unable("write output", error) from error


@contextmanager
def progress() -> Iterator[Tell]:
    """A bar, where somebody looks at it."""
    if os.isatty(2) and find_spec("rich"):
        from qmail_smtpd.probe import table

        with table.Bar() as bar:
            yield bar.tell
    else:
        yield lambda done, of, what: None
