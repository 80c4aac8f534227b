"""relay-list: show the clients that may relay because of a recent login, or what is used of the limits."""

import json
import os
import signal
import time
from typing import TYPE_CHECKING, TypedDict

import click

from qmail_smtpd.relay.address import normalise
from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.kinds import open_counters, open_store
from qmail_smtpd.relay.limitlist import HEADINGS as LIMIT_HEADINGS
from qmail_smtpd.relay.limitlist import Configured, reset_all, uses
from qmail_smtpd.relay.limitlist import cells as limit_cells
from qmail_smtpd.relay.settings import Settings
from tcprules import strerr

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from qmail_smtpd.relay.store import Store

PROGRAM = "relay-list"
USAGE = "relay-list: usage: relay-list [ --limits ] [ --json ] | --deny address | --reset who"
HEADINGS = ("address", "user", "service", "seen", "left")
UNKNOWN = "-"  # vpopmail's list holds neither users nor services
NO_ENTRY = 1  # exit code if an address has no entry, or if nothing is counted for a login or address


class Row(TypedDict):
    """An entry as it is printed. Times are in seconds since 1970."""

    address: str
    user: str
    service: str
    seen: int
    expires: int


def main() -> "NoReturn":
    """Run the program."""
    strerr.occupy_standard_descriptors()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os._exit(show_or_change.main(standalone_mode=False) or 0)
    except click.UsageError:
        strerr.die(strerr.PERMANENT, USAGE)
    except StoreError as error:
        strerr.die(strerr.TEMPORARY, PROGRAM, ": fatal: ", error.text)
    except OSError as error:  # only click's echo raises it: failures of the store are StoreError
        strerr.die(strerr.TEMPORARY, PROGRAM, ": fatal: unable to write output: ", strerr.reason(error))


@click.command(PROGRAM)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--deny", metavar="ADDRESS", help="Revoke relaying for this client until its next login.")
@click.option("--limits", is_flag=True, help="Show what logins and addresses have used of their limits.")
@click.option("--reset", metavar="WHO", help="Forget what is counted for this login or address.")
def show_or_change(as_json: bool, deny: str | None, limits: bool, reset: str | None) -> int:
    """Show the clients that may relay now because of a recent login."""
    if (deny is not None) + (reset is not None) + (as_json or limits) > 1:
        raise click.UsageError("")
    settings = Settings(os.environb)
    if deny is not None:
        return revoke(open_store(settings), os.fsencode(deny))
    if reset is not None:
        return forget(settings, os.fsencode(reset))
    if limits:
        used = uses(open_counters(settings), Configured(settings.home))
        show(used, as_json, [LIMIT_HEADINGS, *map(limit_cells, used)])
        return 0
    rows = entry_rows(open_store(settings))
    now = int(time.time())
    show(rows, as_json, [HEADINGS, *(cells(row, now) for row in rows)])
    return 0


def show(rows: "Sequence[object]", as_json: bool, lines: list[tuple[str, ...]]) -> None:
    """Print the rows as JSON objects, or as a table with these lines. Print nothing if there are none."""
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif rows:
        click.echo("\n".join(table(lines)))


def forget(settings: Settings, who: bytes) -> int:
    """Forget what is counted for a login or an address. Return the exit code."""
    if reset_all(open_counters(settings), who):
        return 0
    strerr.say(PROGRAM, ": nothing is counted for ", who)
    return NO_ENTRY


def revoke(store: "Store", address: bytes) -> int:
    """Remove the entry of the address. Return the exit code."""
    if normalise(address) is None:
        raise click.UsageError("")
    if store.deny(address):
        return 0
    strerr.say(PROGRAM, ": no entry for ", address)
    return NO_ENTRY


def entry_rows(store: "Store") -> list[Row]:
    """Return a row for each entry, sorted by the time of the login."""
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


def table(lines: list[tuple[str, ...]]) -> list[str]:
    """Return the lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def cells(row: Row, now: int) -> tuple[str, ...]:
    """Return the cells of one line. The login is in local time, the remaining time in minutes and seconds."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["seen"]))
    minutes, seconds = divmod(max(row["expires"] - now, 0), 60)
    return row["address"], row["user"] or UNKNOWN, row["service"] or UNKNOWN, when, f"{minutes}:{seconds:02}"
