"""Load console scripts before the first client, so that a child can call them in place of an exec."""

import os
import sys

from tcpserver import registry
from tcpserver.child.script import Script
from tcpserver.child.streams import make_streams_without_connection
from tcpserver.parent import hooks
from tcpserver.process import open_descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Unloadable(Exception):
    """A script cannot be loaded; the text is the fatal line without its prefix."""


def preload_all(asked: list[str], found: list[str]) -> list[str]:
    """Load the mains of console scripts, each `MODULE:FUNCTION:PATH`. Call it without root.

    Raises Unloadable for one of `asked`. Returns the reasons why others of `found` cannot be loaded: they are run by
    exec.
    """
    before = open_descriptors()
    failures = []
    for specification in asked:
        preload(specification)
    for specification in found:
        try:
            preload(specification)
        except Unloadable as error:
            failures.append(f"{error}: it is run by exec")
    if registry.programs:
        sys.excepthook = sys.__excepthook__  # the server's own hook (tcprules/entry.py) is not its programs'
        hooks.before_fork(dict(os.environb))
        Script.module_descriptors |= open_descriptors() - before
        make_streams_without_connection()
    return failures


def preload(specification: str) -> None:
    """Import one main, and register its script. Raises Unloadable."""
    module, function, path = specification.split(":", 2)
    try:
        program: Any = __import__(module, fromlist=[function])
        for attribute in function.split("."):
            program = getattr(program, attribute)
        found = os.stat(path)
    except (ImportError, AttributeError, OSError) as error:
        raise Unloadable(f"unable to preload {os.path.basename(path)}: {error}") from error
    offers = vars(sys.modules[module]) if function == "main" else {}
    registry.programs[registry.identity_of(found)] = Script(program, offers)
    hooks.register(sys.modules[module])
