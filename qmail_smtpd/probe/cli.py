"""The command line of relaytest: from the arguments to a report in the requested format, and an exit code."""

import os
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
from qmail_smtpd.probe.run import Progress
from qmail_smtpd.probe.text import octets, printable
from qmail_smtpd.probe.tricks import trick_probes
from tcprules import strerr, termination

FATAL = "relaytest: fatal: "
BEFORE_PROGRAM = ("--pipe", "--rules")


class Command(click.Command):
    """Allow options after HOST, but not after PROGRAM: there they are the program's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.allow_interspersed_args = not any(word.partition("=")[0] in BEFORE_PROGRAM for word in args)
        try:
            return super().parse_args(ctx, args)
        except OSError as error:  # --help is printed here
            raise unable("write output", error) from error


def crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> NoReturn:
    """Report a bug of ours with a traceback, but exit with 111: Python's exit code 1 would mean an open relay."""
    try:
        strerr.report_bug(kind, error, trace)
    finally:  # also without memory for the report
        os._exit(strerr.TEMPORARY)


def main() -> NoReturn:
    """Run the program."""
    sys.excepthook = crash
    strerr.occupy_standard_descriptors()
    try:
        termination.catch()
        status = relaytest.main(standalone_mode=False)
        os._exit(status or 0)
    except (click.UsageError, BadUse, BadHost) as bad:
        text = bad.format_message() if isinstance(bad, click.UsageError) else str(bad)
        strerr.die(strerr.PERMANENT, FATAL, printable(octets(text)), " (relaytest --help)")
    except Unable as failure:
        strerr.die(strerr.TEMPORARY, FATAL, str(failure))
    except NoConnection as none:
        strerr.die(strerr.TEMPORARY, FATAL, f"unable to connect to the server: {none}")
    except termination.Stopped as stopped:
        termination.end_by(stopped)


@click.command(cls=Command, context_settings={"help_option_names": ["--help", "-h"]})
@click.option("--pipe", is_flag=True, help="test PROGRAM ARG... on a pipe, with the environment of an outside client")
@click.option("--rules", metavar="CDB", help="test what each client may do behind tcpserver with these rules")
@click.option("--home", metavar="DIR", help="the qmail home, with control/: for --rules and for advice")
@click.option("--source", metavar="FILE", help="--rules: the text of the rules (default: CDB without .cdb)")
@click.option("--client", metavar="[INFO@]IP[=HOST]", multiple=True, help="--rules: test this client")
@click.option("--from-ip", metavar="IP", help="the address to connect from; --pipe: the client's address (192.0.2.1)")
@click.option("--as-outside", is_flag=True, help="treat this client as outside, whatever its address")
@click.option("--inside", metavar="NETWORK", multiple=True, help="clients that may relay (or =HOST, =.SUFFIX)")
@click.option(
    "--listed", metavar="DOMAIN", multiple=True, help="a domain, or an address, that the server accepts mail for"
)
@click.option("--outside", metavar="DOMAIN", help="a domain that the server accepts no mail for (example.net)")
@click.option("--auth", is_flag=True, help="also try logins: the server may treat them as an attack")
@click.option("--send", metavar="ADDRESS", help="send messages to this address, at most one for each kind of probe")
@click.option("--helo", metavar="NAME", help="the name in EHLO (relaytest.HOST)")
@click.option("--only", metavar="PATTERN", multiple=True, help="run only these probes: null/*, */percent*, xclient")
@click.option("--pause", metavar="SECONDS", type=click.FloatRange(0, 60), help="between probes")
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(0.1, 600), help="for one answer (30)")
@click.option("--again", metavar="SECONDS", type=click.FloatRange(0, 3600), help="until a 4xx is tried again (30)")
@click.option("--total", metavar="SECONDS", type=click.FloatRange(1, 86400), help="for the whole run (3600)")
@click.option("--verbose", "-v", is_flag=True, help="print a line for each probe")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
@click.option("--html", metavar="FILE", help="also write an HTML page")
@click.option("--list", "list_probes", is_flag=True, help="print the catalogue of probes and exit")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="HOST[:PORT] | PROGRAM [ARG]...")
def relaytest(verbose: bool, as_json: bool, html: str | None, list_probes: bool, **typed: Any) -> int:
    """Test whether a mail server is an open relay. Exit codes: 0 closed, 1 open, 2 cannot tell, 111 no connection."""
    if list_probes:
        write("\n".join(listing(trick_probes())))
        return 0
    options = Options(**typed)
    options.check()
    with PageFile(html) as file:
        with progress_display() as progress:
            report = ask(options, progress)
        file.write(page(report))
    print_report(report, verbose, as_json)
    return report.verdict.exit


def print_report(report: Report, verbose: bool, as_json: bool) -> None:
    """Print the report as JSON, as a table at a terminal, or as lines."""
    if as_json:
        write(lines.as_json(report))
    elif not verbose and os.isatty(1) and find_spec("rich"):
        from qmail_smtpd.probe import table

        write(table.render(report))
    else:
        write("\n".join(lines.plain(report, verbose)))


def write(text: str) -> None:
    """Write to descriptor 1. Raise Unable if that fails.

    click would exit with 1 on a broken pipe, which means an open relay.
    """
    data = (text.rstrip("\n") + "\n").encode("utf-8", "replace")
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError as error:
        raise unable("write output", error) from error


@contextmanager
def progress_display() -> Iterator[Progress]:
    """Show a progress bar if descriptor 2 is a terminal."""
    if os.isatty(2) and find_spec("rich"):
        from qmail_smtpd.probe import table

        with table.Bar() as bar:
            yield bar.update
    else:
        yield lambda done, of, what: None
