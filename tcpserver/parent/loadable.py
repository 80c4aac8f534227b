"""Find the console scripts of a command line that the server can load before the first client, and call.

A package declares its own in the entry-point group tcpserver.programs: the name of a console script, the function to
call. The group tcpserver.secrets has a predicate for those that may see passwords. Loads no program (preload.py).
"""

import os
import sys
import sysconfig
from importlib.metadata import EntryPoint, entry_points

from tcpserver import chain, registry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

GROUP = "tcpserver.programs"
SECRETS = "tcpserver.secrets"

Specification = str  # MODULE:FUNCTION:PATH
Identity = tuple[int, int, int]  # of a script: registry.identity_of


def by_name(name: str) -> Specification | None:
    """The console script of that name of any installed package (--preload). None if there is no such script.

    If its package declares a function for it, that one is called: it lacks what only an exec'd program needs.
    """
    for script in entry_points(group="console_scripts", name=name):
        for path in paths(script):
            if os.access(path, os.X_OK):
                declared = next(iter(entry_points(group=GROUP, name=name)), script)
                return specification(declared, path)
    return None


def in_use(words: list[bytes], environ: "Mapping[bytes, bytes]") -> list[Specification]:
    """The declared scripts that are words of a program's command line, or values of the environment.

    A word is searched in PATH as exec does; a value counts if it is an absolute path.
    """
    declared: dict[Identity | None, Specification] = {identity: spec for spec, identity in all_declared()}
    found: dict[Specification, None] = {}
    for path in [exec_path(word) for word in words] + [value for value in environ.values() if value[:1] == b"/"]:
        spec = declared.get(identity_of(path)) if path else None
        if spec:
            found[spec] = None
    return list(found)


def sees_secrets(program: list[str], environ: "Mapping[bytes, bytes]") -> bool:
    """Whether a program of the command line may get passwords from its clients, by its package's own predicate.

    The predicate is a function of the words from the program's name on, and of the environment.
    """
    predicates = {entry.name: entry for entry in entry_points(group=SECRETS)}
    words = [os.fsencode(word) for word in program]
    for number, word in enumerate(program):
        entry = predicates.get(os.path.basename(word))
        if entry and entry.load()(words[number:], environ):
            return True
    return False


def all_declared() -> "Iterator[tuple[Specification, Identity]]":
    """Every declared script that is installed, with its identity."""
    for entry in entry_points(group=GROUP):
        for path in paths(entry):
            identity = identity_of(os.fsencode(path))
            if identity and os.access(path, os.X_OK):
                yield specification(entry, path), identity
                break


def paths(entry: EntryPoint) -> list[str]:
    """Where the script of an entry point may be: a file of its package, beside tcpserver, or among this Python's.

    Packages of a Linux distribution do not record what they have installed.
    """
    files = (entry.dist.files if entry.dist else None) or []
    installed = [str(file.locate()) for file in files if file.name == entry.name and file.parent.name != "__pycache__"]
    directories = (os.path.dirname(os.path.realpath(sys.argv[0])), sysconfig.get_path("scripts"))
    return [*installed, *(os.path.join(directory, entry.name) for directory in directories)]


def specification(entry: EntryPoint, path: str) -> Specification:
    return f"{entry.module}:{entry.attr}:{path}"


def exec_path(word: bytes) -> bytes | None:
    """The file that exec would run for a word."""
    for path in chain.candidates(word):
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def identity_of(path: bytes) -> Identity | None:
    """The identity of the file at `path` (registry.py); None if there is none."""
    try:
        return registry.identity_of(os.stat(path))
    except (OSError, ValueError):
        return None
