"""Load console scripts before the first client (--preload), so that a child can call them in place of an exec."""

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


def preload_all(specifications: list[str]) -> None:
    """Load the mains of console scripts, each `MODULE:FUNCTION:PATH` as cli.py found it. Call it without root."""
    if not specifications:
        return
    before = open_descriptors()
    for specification in specifications:
        preload(specification)
    hooks.before_fork(dict(os.environb))
    Script.module_descriptors |= open_descriptors() - before
    make_streams_without_connection()


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
    serve = getattr(sys.modules[module], "serve_client", None) if function == "main" else None
    registry.programs[found.st_dev, found.st_ino] = Script(program, serve)
    hooks.register(sys.modules[module])
