"""The command line of relayreport: read logs, then print a report, write a page, or serve the counters."""

import datetime
import gc
import importlib.util
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from typing import NoReturn

import click

from qmail_smtpd.report.lines import Reader
from qmail_smtpd.report.page import page
from qmail_smtpd.report.sources import STDIN, Unreadable, read_all, sources, unable
from qmail_smtpd.report.summary import Summary, as_data, summarize
from qmail_smtpd.report.tally import Tally
from tcprules import install, strerr

PROGRAM = "relayreport"
FATAL = "relayreport: fatal: "
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
NOT_AN_ADDRESS = "is not like 127.0.0.1:9100 or [::1]:9100"
ROWS = 15
ROWS_OF_A_PAGE = 25


class Missing(Exception):
    """A package of the extra is not installed."""


def main() -> NoReturn:
    """Run the program."""
    strerr.occupy_standard_descriptors()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        relayreport.main(standalone_mode=False)
        sys.stdout.flush()
        os._exit(0)
    except click.UsageError as bad:
        strerr.die(strerr.PERMANENT, FATAL, bad.format_message(), " (relayreport --help)")
    except (Unreadable, Missing) as failure:
        strerr.die(strerr.TEMPORARY, FATAL, str(failure))
    except install.Unable as failure:
        strerr.die(strerr.TEMPORARY, FATAL, failure.text)
    except OSError as error:
        strerr.die(strerr.TEMPORARY, FATAL, "unable to write output: ", strerr.reason(error))


def beginning(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    """Return the time that --since names, in seconds since 1970: `24h`, `7d`, or a date of ISO 8601."""
    if value is None:
        return None
    if match := re.fullmatch(r"(\d{1,9})([smhdw])", value, re.ASCII):
        return time.time() - int(match[1]) * UNITS[match[2]]
    try:
        return datetime.datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value!a} is neither like 24h or 7d nor like 2026-11-24T08:00") from None


@click.command(PROGRAM, context_settings={"help_option_names": ["--help", "-h"]})
@click.option("--since", callback=beginning, metavar="TIME", help="read from this time on: 24h, 7d, 2026-11-24T08:00")
@click.option("--top", type=click.IntRange(1, 1000), metavar="N", help=f"rows of each table ({ROWS}; a page has more)")
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
@click.option("--html", type=click.Path(), metavar="FILE", help="write a page for a browser")
@click.option("--listen", metavar="HOST:PORT", help="follow the log, and serve the counters for Prometheus")
@click.argument("logs", nargs=-1, metavar="LOG...")
def relayreport(
    logs: tuple[str, ...], since: float | None, top: int | None, as_json: bool, html: str | None, listen: str | None
) -> None:
    """Show what the logs of tcpserver and qmail-smtpd say: who relays, who is refused and why, and what looks wrong.

    LOG is a file, plain or gzip, a directory of multilog or svlogd, or - for standard input.
    """
    if not logs and os.isatty(0):
        raise click.UsageError("LOG is missing")
    tally = Tally()
    reader = Reader(tally, since)
    if listen is not None:
        if as_json or html:
            raise click.UsageError("--listen excludes --json and --html")
        require("prometheus_client")
        serve(listen, logs or (STDIN,), since)
        return
    if not (as_json or html):
        require("rich")
    gc.disable()  # there are no reference cycles, and the search for them takes a tenth of the time
    read_all(sources(logs or (STDIN,)), reader)
    if html:
        write_page(html, summarize(tally, reader, top or ROWS_OF_A_PAGE))
    if as_json:
        click.echo(json.dumps(as_data(summarize(tally, reader, top or ROWS))))
    elif not html:
        from qmail_smtpd.report import terminal

        terminal.show(summarize(tally, reader, top or ROWS))


def serve(listen: str, logs: tuple[str, ...], since: float | None) -> None:
    """Follow the logs, and serve the counters."""
    from qmail_smtpd.report import metrics
    from qmail_smtpd.report.following import begin, follow, follow_input

    host, _, digits = listen.rpartition(":")
    if not host or not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and int(digits) < 65536):
        raise click.UsageError(f"--listen: {listen!a} {NOT_AN_ADDRESS}")
    tally, lock = Tally(), threading.Lock()
    readers: list[Reader] = []

    def make_reader() -> Reader:
        readers.append(Reader(tally, since))
        return readers[-1]

    from_input = STDIN in logs
    sources(logs)  # a log that cannot be read is an error now
    followers = [] if from_input else begin(logs, since, make_reader)
    try:
        port = metrics.serve(host.strip("[]"), int(digits), metrics.Counters(tally, readers, lock))
    except UnicodeError:  # getaddrinfo, for a host that IDNA cannot encode
        raise click.UsageError(f"--listen: {listen!a} {NOT_AN_ADDRESS}") from None
    except socket.gaierror as error:
        raise Unreadable(f"no IP address for {host}") from error
    except OSError as error:
        raise unable("listen on", listen, error) from error
    strerr.say(f"relayreport: listening on {host}:{port}")
    if from_input:
        follow_input(make_reader(), lock)
    else:
        follow(followers, lock)


def write_page(path: str, summary: Summary) -> None:
    """Replace the file by the page, so that no reader sees a part of one. What is no regular file is written to."""
    data = page(summary).encode()
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as file:
            file.write(data)
        return
    name = os.fsencode(path)
    install.install(name, name + b".tmp", lambda: memoryview(data), warn)


def warn(text: bytes) -> None:
    """Report what is no error."""
    strerr.say("relayreport: warning: ", text)


def require(*packages: str) -> None:
    """Raise Missing if one of the packages is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            name = package.replace("_", "-")
            raise Missing(f"{name} is not installed: {sys.executable} -m pip install {name}")
