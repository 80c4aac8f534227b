"""qmail-smtpd's words -> which checkers AUTH has, told apart so that no program that checks nothing becomes one. Pure.

Fifteen years of patches have three orders. A server that is moved from one to the other with its old words must not
take /bin/true, or a host called `mail`, for a checker (John Simpson, Bugtraq 2005; README.auth of the 0.30 patch).
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TRUE = b"true"
SHELLS = (  # names from Debian's /etc/shells, and the boxes that are shells among other things
    b"sh ash bash bash-static bsd-csh busybox csh dash elvish es fish ksh ksh93 lksh mksh mksh-static posh pwsh rbash "
    b"rc rksh rksh93 rzsh sash tcsh toybox yash zsh zsh-static zsh5"
)
NO_CHECKERS = (TRUE, *SHELLS.split())  # with nothing to read all of them say yes to all
PAIR_WORDS = 4  # CHECKER true CRAMCHECKER true


class Refused(Exception):
    """These words give no checker; the text is why."""


class Words:
    """What the words mean. `host` is set in the HOSTNAME form; `old`: HOSTNAME and pair form, of 0.31 and before."""

    __slots__ = ("checker", "cram", "host", "old")

    def __init__(self, checker: list[bytes], cram: list[bytes], host: bytes | None, old: bool) -> None:
        self.checker = checker
        self.cram = cram
        self.host = host
        self.old = old
        for program in (checker, cram):
            if base_name(program[0]) in NO_CHECKERS:
                raise Refused(b"the checker may not be " + base_name(program[0]))


def parse(words: list[bytes], in_path: "Callable[[bytes], bool]") -> Words:
    """Tell the forms apart; `in_path` says whether a bare name is a program. Raises Refused."""
    if len(words) == PAIR_WORDS and base_name(words[1]) == base_name(words[3]) == TRUE:
        return Words(words[:2], words[2:], None, True)
    if len(words) < 2:
        raise Refused(b"a checker and the program that it becomes are needed")
    if b"/" in words[0] or len(words) == 2:
        return Words(words, words, None, False)
    if in_path(words[0]):
        raise Refused(b"is " + words[0] + b" a host or the checker? Give the checker's path")
    return Words(words[1:], words[1:], words[0], True)


def base_name(path: bytes) -> bytes:
    """The name of a program without its directories."""
    return path.rstrip(b"/").rpartition(b"/")[2]
