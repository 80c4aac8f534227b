"""Parse qmail-smtpd's arguments: which checkers AUTH uses. Pure.

In fifteen years of patches the arguments had three orders. A server that is moved from one patch to another with its
old arguments must not use /bin/true, or a program with the name of a host such as `mail`, as a checker (John Simpson,
Bugtraq 2005; README.auth of the 0.30 patch).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TRUE = b"true"
SHELLS = (  # names from Debian's /etc/shells, and the multi-call programs that include a shell
    b"sh ash bash bash-static bsd-csh busybox csh dash elvish es fish ksh ksh93 lksh mksh mksh-static posh pwsh rbash "
    b"rc rksh rksh93 rzsh sash tcsh toybox yash zsh zsh-static zsh5"
)
NO_CHECKERS = (TRUE, *SHELLS.split())  # each exits with 0 if it has nothing to do, and so accepts every password
PAIR_LENGTH = 4  # CHECKER true CRAMCHECKER true


class Refused(Exception):
    """These arguments give no checker. The text says why."""


class Checkers:
    """The commands for passwords and for CRAM-MD5.

    `host`: set by the form with HOSTNAME; `old`: the form with HOSTNAME or CRAMCHECKER, of patch 0.31 and before.
    """

    __slots__ = ("cram_command", "host", "old", "password_command")

    def __init__(self, password_command: list[bytes], cram_command: list[bytes], host: bytes | None, old: bool) -> None:
        self.password_command = password_command
        self.cram_command = cram_command
        self.host = host
        self.old = old
        for command in (password_command, cram_command):
            if base_name(command[0]) in NO_CHECKERS:
                raise Refused(b"the checker may not be " + base_name(command[0]))


def parse(arguments: list[bytes], in_path: "Callable[[bytes], bool]") -> Checkers:
    """Recognise the form; `in_path` tells whether a bare name is a program. Raises Refused."""
    if len(arguments) == PAIR_LENGTH and base_name(arguments[1]) == base_name(arguments[3]) == TRUE:
        return Checkers(arguments[:2], arguments[2:], None, True)
    if len(arguments) < 2:
        raise Refused(b"a checker and a subprogram are needed")
    if b"/" in arguments[0] or len(arguments) == 2:
        return Checkers(arguments, arguments, None, False)
    if in_path(arguments[0]):
        raise Refused(b"is " + arguments[0] + b" a host or the checker? Give the checker's path")
    return Checkers(arguments[1:], arguments[1:], arguments[0], True)


def base_name(path: bytes) -> bytes:
    """Return the last component of a path."""
    return path.rstrip(b"/").rpartition(b"/")[2]
