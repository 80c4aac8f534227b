"""argv0: run a program under another name than that of its file."""

import os
import sys

from tcprules import strerr
from tcpserver import chain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> "NoReturn":
    """Become the program argv[1], whose own argument 0 is argv[2]."""
    words = [os.fsencode(word) for word in sys.argv[1:]]
    if len(words) < 2:
        strerr.die(strerr.PERMANENT, "argv0: usage: argv0 realname program [ arg ... ]")
    error = chain.become(words[1:], None, words[0])
    strerr.die(strerr.TEMPORARY, "argv0: fatal: unable to run ", words[0], ": ", strerr.reason(error))
