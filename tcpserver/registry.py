"""The programs that this process has loaded already. chain.become() calls one of them where it would exec its file.

A program is known by the file of its console script. The parent fills the table (parent/preload.py).
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, Protocol

    class Program(Protocol):
        """A loaded console script (child/script.py has the class)."""

        main: Callable[[], object]
        serve_client: Callable[[], object] | None  # serves one client, and may be called again
        serve_connection: Callable[[dict[bytes, bytes]], int] | None  # the same, with the environment as its argument

        def offer(self, name: str) -> Any:
            """The function of this name in the program's module, for programs that know each other; or None."""

        @property
        def is_reusable(self) -> bool:
            """Whether it has serve_client or serve_connection."""

        def __call__(self, path: bytes, argv: list[bytes], environ: dict[bytes, bytes] | None) -> NoReturn:
            """Run with this path, these words and this environment, as exec would."""

        def run(self, words: list[str]) -> NoReturn:
            """Run with these words, where everything else is right already."""


freed_memory_is_wiped: list[bool] = []  # not empty if the allocator overwrites what this process frees (environ.py)
programs: "dict[tuple[int, int, int], Program]" = {}  # identity of a script -> what runs it in this process


def identity_of(found: os.stat_result) -> tuple[int, int, int]:
    """The identity of a script: device, inode and change time.

    Without the time, a new file that gets the inode of a removed one would be taken for it. After a change of
    the time alone, by chmod or a hard link, the script is executed, not called.
    """
    return found.st_dev, found.st_ino, found.st_ctime_ns


def loaded_program(path: bytes | str) -> "Program | None":
    """The loaded program of the script at `path`; None if that file is not loaded, or may not be executed."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    program = programs.get(identity_of(found))
    return program if program and os.access(path, os.X_OK) else None


def find_loaded(paths: list[bytes]) -> "tuple[Program, bytes] | None":
    """The loaded program at which exec's search through these paths ends, and its path; None if it is not loaded."""
    for path in paths if programs else ():
        program = loaded_program(path)
        if program:
            return program, path
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return None
    return None
