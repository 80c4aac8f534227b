"""Which programs have shell completion, and what click knows about their options.

The files are static: click's own completion starts the program at each TAB, and tcpserver, checkusers and tcprules do
not let it read their words. share/shells.py writes the files.
"""

import click

from qmail_smtpd.auth.cli import edit as checkusers
from qmail_smtpd.probe.cli import relaytest
from qmail_smtpd.relay.cli import show_or_change
from qmail_smtpd.report.cli import relayreport
from share import shells
from share.shells import Choice, Program
from tcprules.cli import CHECK, QUIET, STRICT, check_rules
from tcpserver.cli import options

PROGRAMS: dict[str, click.Command] = {
    "checkusers": checkusers,
    "relay-list": show_or_change,
    "relayreport": relayreport,
    "relaytest": relaytest,
    "tcprules": click.Command("", add_help_option=False, params=[click.Option([w]) for w in (CHECK, STRICT, QUIET)]),
    "tcprulescheck": check_rules,
    "tcpserver": click.Command("", add_help_option=False, params=options()),
}
BEFORE_PROGRAM = {"checkusers": 0, "tcpserver": 2}  # words that precede those of another command: host and port
WITHOUT_WORDS = ("relay-list",)
FLAGS = (CHECK, STRICT, QUIET)
FILES = ("FILE", "DIR", "CDB")  # of options whose values are files: placeholders; below, names of options without one
FILE_NAMES = ("rules", "source", "against")
FOLDERS = ("bash-completion", "zsh", "fish")


def choice(option: click.Option) -> Choice:
    """Return what click knows about an option."""
    flag = option.is_flag or option.opts[0] in FLAGS
    kind = option.type
    words = tuple(str(word) for word in kind.choices) if isinstance(kind, click.Choice) else ()
    place = "" if flag else option.metavar or (option.name or "value").upper()
    is_file = place in FILES or (not flag and not option.metavar and option.name in FILE_NAMES)
    return Choice((*option.opts, *option.secondary_opts), option.help or "", place, words, is_file, option.multiple)


def program(name: str) -> Program:
    """Return what is completed for a program."""
    command = PROGRAMS[name]
    parameters = command.get_params(click.Context(command, **command.context_settings))
    found = [choice(parameter) for parameter in parameters if isinstance(parameter, click.Option)]
    return Program(name, found, BEFORE_PROGRAM.get(name), name not in WITHOUT_WORDS)


def all_completions() -> dict[str, str]:
    """Return path below share/ -> content."""
    found = {}
    for name in sorted(PROGRAMS):
        what = program(name)
        found[f"bash-completion/completions/{name}"] = shells.bash(what)
        found[f"zsh/site-functions/_{name}"] = shells.zsh(what)
        found[f"fish/vendor_completions.d/{name}.fish"] = shells.fish(what)
    return found
