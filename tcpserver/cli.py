"""The command line of tcpserver: 0.88's options by 0.88's rules, our own as long options -> Settings.

Then the process becomes the server: a fresh interpreter with the settings, which loads only what serving needs
(parent/start.py), because fork copies whatever the parent has loaded. Opens no socket and serves nobody itself.
"""

import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from tcprules import strerr
from tcpserver import environ
from tcpserver.address.operands import MAX_PORT, Unable, port_number
from tcpserver.parent import inherited, listen, loadable, proxy_networks
from tcpserver.parent.account import Account, account
from tcpserver.settings import Settings

USAGE = (
    "tcpserver: usage: tcpserver [ -1UXpPhHrRoOdDqQv ] [ -c limit ] [ -x rules.cdb ] [ -B banner ] [ -g gid ]"
    " [ -u uid ] [ -b backlog ] [ -l localname ] [ -t timeout ] host port program"
)
SERVE = "from tcprules.entry import start; start('tcpserver', 'tcpserver.parent.start')"
VERBOSITY = {"q": 0, "Q": 1, "v": 2}
MAX_INT = 2**31 - 1
MAX_SECONDS = 2_000_000  # 23 days: poll(2) takes milliseconds as an int, and Python raises OverflowError for more
MAX_LIMIT = 1_000_000  # no host serves more at once
LONGEST_NUMBER = 20  # digits that are read: more than any bound has
REUSE = 100  # clients of one process, as Postfix's max_use
FLAGS = "1UXpPhHrRoOdDqQv"
PASSED_SOCKET = "fd:"  # in place of host and port: the socket of LISTEN_FDS


def bounded(low: int, high: int) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """A callback for a whole number within bounds, ASCII digits only: `12x` is refused (0.88 reads it as 12)."""

    def check(ctx: click.Context, param: click.Parameter, text: str | None) -> int | None:
        if text is None:
            return None
        digits = text.lstrip("0")[:LONGEST_NUMBER] or "0"
        if text.isascii() and text.isdigit() and low <= int(digits) <= high:
            return int(digits)
        raise click.BadParameter(f"needs a whole number from {low} to {high}: {text}", ctx, param)

    return check


def address_limit(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, str | None]:
    """-C n[:message], as ipsvd's tcpsvd has it."""
    if text is None:
        return 0, None
    number, colon, message = text.partition(":")
    return bounded(1, MAX_LIMIT)(ctx, param, number) or 0, message if colon else None


def rate(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, int]:
    """--rate n/seconds."""
    if text is None:
        return 0, 0
    number, slash, seconds = text.partition("/")
    if not slash:
        raise click.BadParameter(f"needs clients/seconds, such as 20/60: {text}", ctx, param)
    return bounded(1, MAX_LIMIT)(ctx, param, number) or 0, bounded(1, MAX_LIMIT)(ctx, param, seconds) or 0


def networks(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> list[str]:
    """--proxy-from, a list of networks each time."""
    found = [text for item in texts for text in item.split(",")]
    for text in found:
        try:
            proxy_networks.parse(os.fsencode(text))
        except ValueError as error:
            raise click.BadParameter(f"needs networks, such as 10.0.0.0/8,::1: {text}: {error}", ctx, param) from None
    return found


class Command(click.Command):
    """A click command that remembers in which order the options came: of -h and -H, -u and -U the later one counts."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        ctx.meta["order"] = [param.name for param in order]
        return super().parse_args(ctx, args)


def options() -> list[click.Parameter]:
    """0.88's options under their own letters, and what we added as long options."""
    letters: list[click.Parameter] = [click.Option([f"-{letter}", f"flag_{letter}"], is_flag=True) for letter in FLAGS]
    letters += [
        click.Option(["-c", "limit"], callback=bounded(1, MAX_LIMIT), default="40"),  # tcpserver.c: limit = 40
        click.Option(["-b", "backlog"], callback=bounded(1, MAX_INT), default="20"),  # tcpserver.c: backlog = 20
        click.Option(["-t", "ident_timeout"], callback=bounded(0, MAX_INT), default="26"),  # tcpserver.c: timeout = 26
        click.Option(["-x", "rules"]),
        click.Option(["-B", "banner"], default=""),
        click.Option(["-l", "local_name"]),
        click.Option(["-u", "user"], multiple=True),
        click.Option(["-g", "group"], multiple=True),
        click.Option(["--prepare-timeout", "prepare_timeout"], callback=bounded(1, MAX_SECONDS), default="60"),
        click.Option(["-C", "address_limit"], callback=address_limit),
        click.Option(["--rate", "rate"], callback=rate),
        click.Option(["--drain", "drain"], callback=bounded(0, MAX_SECONDS)),
        click.Option(["--preload", "preload"], multiple=True),
        click.Option(["--reuse", "reuse"], callback=bounded(1, MAX_INT)),
        click.Option(["--exec", "exec_only"], is_flag=True),
        click.Option(["--proxy-from", "proxy_from"], multiple=True, callback=networks),
        click.Option(["--proxy-timeout", "proxy_timeout"], callback=bounded(1, MAX_SECONDS), default="5"),
        click.Option(["--log-format", "log_format"], type=click.Choice(["text", "json"]), default="text"),
        click.Argument(["operands"], nargs=-1, type=click.UNPROCESSED),
    ]
    return letters


class Refused(Exception):
    """The command line is invalid: the exit status, and the line with the reason."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status, self.line = status, line


def main() -> NoReturn:
    """The console script."""
    open_standard_descriptors()
    command = Command(
        "tcpserver", params=options(), add_help_option=False, context_settings={"allow_interspersed_args": False}
    )
    try:
        with command.make_context("tcpserver", sys.argv[1:]) as ctx:
            params, order = ctx.params, ctx.meta["order"]
    except click.NoSuchOption as error:
        misused("illegal option -- ", error.option_name)
    except click.BadOptionUsage as error:
        misused("option requires an argument -- ", error.option_name)
    except click.BadParameter as error:
        option = error.param.opts[0] if error.param else ""
        strerr.die(strerr.PERMANENT, f"tcpserver: fatal: {option} {error.message}")
    verbosity = VERBOSITY[last(order, "Qqv")]
    try:
        settings = settle(params, order, verbosity)
    except Refused as refused:
        if verbosity == 0:  # -q silences these too, as it does in 0.88
            os._exit(refused.status)
        strerr.die(refused.status, refused.line)
    become_server(settings)


def open_standard_descriptors() -> None:
    """Descriptors 0 to 2 that are closed are opened on /dev/null, so that no socket or rules file gets their number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            os.set_inheritable(descriptor, True)


def misused(what: str, option: str) -> NoReturn:
    """Report an unknown option, or one without its argument: sgetopt's line, unless it is a long one, and the usage."""
    letter = os.fsencode(option[1:])[:1]  # sgetopt reads single bytes
    if len(option) == 2:  # also `--`: as a word of its own it ends the options, so here it is a `-` in a cluster
        strerr.say(os.path.basename(sys.argv[0]) or "tcpserver", ": ", what, letter)
    strerr.die(strerr.PERMANENT, USAGE)


def last(order: list[str], letters: str) -> str:
    """Which of these flags came last; the first of `letters` is the default."""
    given = [name[-1] for name in order if name.startswith("flag_") and name[-1] in letters]
    return given[-1] if given else letters[0]


def settle(params: dict[str, Any], order: list[str], verbosity: int) -> Settings:
    """The values that click parsed -> Settings. Raises Refused where they make no sense."""
    address, port, program = operands(list(params["operands"]))
    became = user(params, order)
    if params["exec_only"] and (params["preload"] or params["reuse"]):
        raise Refused(strerr.PERMANENT, "tcpserver: fatal: --exec excludes --preload and --reuse")
    return Settings(
        address=address,
        port=port,
        program=program,
        command=sys.argv[1:],
        verbosity=verbosity,
        limit=params["limit"],
        backlog=params["backlog"],
        rules=params["rules"],
        rules_optional=int(params["flag_X"]),
        banner=params["banner"] or None,
        uid=became.uid,
        gid=became.gid,
        groups=became.groups,
        print_port=int(params["flag_1"]),
        local_name=params["local_name"],
        ask_host=int(last(order, "hH") == "h"),
        paranoid=int(last(order, "Pp") == "p"),
        ask_info=int(last(order, "Rr") == "r"),  # off unless asked for, unlike 0.88
        ident_timeout=params["ident_timeout"],
        prepare_timeout=params["prepare_timeout"],
        address_limit=params["address_limit"][0],
        address_message=params["address_limit"][1],
        rate=params["rate"][0],
        rate_period=params["rate"][1],
        drain=params["drain"],
        reuse=params["reuse"] or (1 if params["exec_only"] else REUSE),
        reuse_asked=int(bool(params["reuse"])),
        preload=[preloaded(name) for name in params["preload"]],
        loadable=in_use(params, program),
        log_format=params["log_format"],
        kill_ip_options=int(last(order, "Oo") == "O"),
        nodelay=int(last(order, "dD") == "D"),
        proxy_from=params["proxy_from"],
        proxy_timeout=params["proxy_timeout"],
    )


def operands(words: list[str]) -> tuple[str | None, int, list[str]]:
    """host, port and program, checked in 0.88's order: a bad port is reported before a missing program."""
    if words[:1] == [PASSED_SOCKET]:
        if not words[1:]:
            raise Refused(strerr.PERMANENT, USAGE)
        return None, 0, words[1:]
    if len(words) < 2:
        raise Refused(strerr.PERMANENT, USAGE)
    try:
        port = port_number(words[1])
        if not words[2:]:
            raise Refused(strerr.PERMANENT, USAGE)
        return listen.address(words[0]), port, words[2:]
    except ValueError:
        raise Refused(strerr.PERMANENT, f"tcpserver: fatal: port is over {MAX_PORT}: {words[1]}") from None
    except Unable as error:
        raise Refused(strerr.TEMPORARY, f"tcpserver: fatal: {error}") from None


def user(params: dict[str, Any], order: list[str]) -> Account:
    """The account to become. -U takes user and group from the environment; the last option for each counts."""
    given = {"user": list(params["user"]), "group": list(params["group"])}
    chosen: dict[str, str | None] = {"user": None, "group": None}
    for name in order:
        if name in given:
            chosen[name] = given[name].pop(0)
        elif name == "flag_U":
            chosen = {"user": os.environ.get("UID"), "group": os.environ.get("GID")}
            if not all(value and value.isascii() and value.isdigit() for value in chosen.values()):
                raise Refused(strerr.PERMANENT, "tcpserver: fatal: -U needs $UID and $GID, both numbers")
    try:
        return account(chosen["user"], chosen["group"])
    except ValueError as error:
        raise Refused(strerr.PERMANENT, f"tcpserver: fatal: {error}") from None


def preloaded(name: str) -> str:
    """The script that --preload names. Raises Refused."""
    found = loadable.by_name(name)
    if not found:
        raise Refused(strerr.PERMANENT, f"tcpserver: fatal: unable to preload {name}: no console script of that name")
    return found


def in_use(params: dict[str, Any], program: list[str]) -> list[str]:
    """The scripts that are loaded without being named: none with --exec."""
    if params["exec_only"]:
        return []
    return loadable.in_use([os.fsencode(word) for word in program], os.environb)


def become_server(settings: Settings) -> NoReturn:
    """Exec a fresh interpreter that serves. -P: nothing is imported from the directory it was started in."""
    given = inherited.environ()
    given.setdefault(environ.BIND_NOW, environ.OURS)
    loads = bool(settings.loadable or settings.preload)
    if loads and not given.keys() & environ.WIPING.keys() and loadable.sees_secrets(settings.program, given):
        given |= environ.WIPING
    try:
        os.execve(sys.executable, [sys.executable, "-P", "-c", SERVE, *settings.words()], given)
    except OSError as error:
        strerr.die(strerr.TEMPORARY, f"tcpserver: fatal: unable to run {sys.executable}: {strerr.reason(error)}")
