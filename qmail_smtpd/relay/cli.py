"""relay-list: show who may relay by a recent login, or let somebody relay no more."""

import json
import os
import signal
import time
from typing import TYPE_CHECKING, TypedDict

import click

from qmail_smtpd.relay.address import normalise
from qmail_smtpd.relay.kinds import open_store
from qmail_smtpd.relay.settings import Settings
from qmail_smtpd.relay.trouble import Trouble
from tcprules import strerr

if TYPE_CHECKING:
    from typing import NoReturn

    from qmail_smtpd.relay.store import Store

PROGRAM = "relay-list"
USAGE = "relay-list: usage: relay-list [ --json | --deny address ]"
HEADINGS = ("address", "user", "service", "seen", "left")
UNKNOWN = "-"  # vpopmail's list has neither users nor services
NOT_KNOWN = 1  # exit code for an address that has no entry


class Row(TypedDict):
    """An entry as it is shown. Times are seconds since 1970."""

    address: str
    user: str
    service: str
    seen: int
    expires: int


def main() -> "NoReturn":
    """The console script."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        os._exit(show_or_deny.main(standalone_mode=False) or 0)
    except click.UsageError:
        strerr.die(strerr.PERMANENT, USAGE)
    except Trouble as trouble:
        strerr.die(strerr.TEMPORARY, PROGRAM, ": fatal: ", trouble.text)
    except OSError as error:  # click's echo: each file of the store has its own
        strerr.die(strerr.TEMPORARY, PROGRAM, ": fatal: unable to write output: ", strerr.reason(error))


@click.command(PROGRAM)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--deny", metavar="ADDRESS", help="Let this client relay no more, until it logs in again.")
def show_or_deny(as_json: bool, deny: str | None) -> int:
    """Show who may relay now because of a recent login."""
    if as_json and deny is not None:
        raise click.UsageError("")
    store = open_store(Settings(os.environb))
    if deny is not None:
        return forget(store, os.fsencode(deny))
    rows = list(facts(store))
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif rows:
        click.echo("\n".join(table(rows)))
    return 0


def forget(store: "Store", address: bytes) -> int:
    """The exit code of --deny."""
    if normalise(address) is None:
        raise click.UsageError("")
    if store.deny(address):
        return 0
    strerr.say(PROGRAM, ": no entry for ", address)
    return NOT_KNOWN


def facts(store: "Store") -> list[Row]:
    """What is known of each entry. The latest login is the last."""
    seconds = store.settings.seconds
    return [
        {
            "address": entry.address.decode(),
            "user": entry.user.decode(),
            "service": entry.service.decode(),
            "seen": entry.seen,
            "expires": entry.end(seconds),
        }
        for entry in sorted(store.entries(), key=lambda entry: entry.seen)
    ]


def table(rows: list[Row]) -> list[str]:
    """Lines of columns, each as wide as its widest word."""
    now = int(time.time())
    words = [HEADINGS, *(shown(row, now) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*words, strict=True)]
    return ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in words]


def shown(row: Row, now: int) -> tuple[str, ...]:
    """One line's words: the time of the login as it is here, and the minutes and seconds that are left."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["seen"]))
    minutes, seconds = divmod(max(row["expires"] - now, 0), 60)
    return row["address"], row["user"] or UNKNOWN, row["service"] or UNKNOWN, when, f"{minutes}:{seconds:02}"
