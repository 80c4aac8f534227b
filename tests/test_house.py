"""The house: who may import whom, and what one connection's programs load. A broken rule names itself."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

PACKAGES = ("tcprules", "tcpserver", "qmail_smtpd")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

BORROWED = {  # what a package may import from the other two
    "tcprules": (),
    "tcpserver": ("tcprules.lookup", "tcprules.strerr"),
    "qmail_smtpd": ("tcpserver.chain", "tcprules.strerr", "tcprules.compile"),
}
INSTALL_TOO = ("qmail_smtpd.auth.cli",)  # a file of secrets is replaced as a file of rules is
LOOKUP_TOO = ("qmail_smtpd.probe.", "qmail_smtpd.relay.")  # these ask the rules as tcpserver would

ONLY_IN = {  # a module of the library -> the rooms that may import it
    "click": lambda room: room.rsplit(".", 1)[-1] == "cli",
    "ssl": lambda room: room in ("qmail_smtpd.net.tls", "qmail_smtpd.probe.starttls"),  # the second is a client
    "socket": lambda room: (
        room in ("tcpserver.listen", "tcpserver.serve", "tcpserver.names", "tcpserver.ident", "qmail_smtpd.ownaddress")
        or room in ("qmail_smtpd.pop3.tunnel", "tcpserver.pool", "tcpserver.worker")  # socket pairs
        or room.startswith(("tcpserver.tools.", "qmail_smtpd.probe.", "qmail_smtpd.relay."))
    ),
}

FORKING = ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen")
EXECUTING = ("execv", "execve", "execvp", "execvpe", "execl", "execle", "execlp", "execlpe")
MAY_FORK_OR_EXEC = (
    "tcpserver.cli",
    "tcpserver.launch",
    "tcpserver.names",
    "tcpserver.chain",
    "tcpserver.tools.pump",
    "qmail_smtpd.child",  # for the queue client, auth/checkpassword and pop3/popup
)
MAY_FORK_OR_EXEC_BELOW = ("qmail_smtpd.queue.", "qmail_smtpd.probe.")
IDENTITY = ("setuid", "setgid", "setgroups", "seteuid", "setegid", "setreuid", "setregid", "setresuid", "setresgid")

PURE = (
    "tcprules.rules",
    "tcprules.network",
    "tcprules.lint",
    "tcpserver.limits",
    "tcpserver.environ",
    "qmail_smtpd.smtp.session",
    "qmail_smtpd.smtp.message",
    "qmail_smtpd.smtp.address",
    "qmail_smtpd.smtp.replies",
    "qmail_smtpd.smtp.policy",
    "qmail_smtpd.pop3.command",
    "qmail_smtpd.pop3.outgoing",
    "qmail_smtpd.pop3.replies",
)
WORLDLY = ("os", "socket", "ssl", "time", "select", "signal", "_signal", "fcntl", "pwd", "grp", "subprocess", "sys")


def room_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node, but for what stands under `if TYPE_CHECKING:`, which no process ever imports."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from nodes(child)


def imports(path: Path) -> set[str]:
    """The modules that a file imports, `from package import room` as package.room."""
    found = set()
    for node in nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" if is_package(module) else module for alias in node.names}
    return found


def is_package(module: str) -> bool:
    return (ROOT / Path(*module.split("."))).is_dir() and module.split(".")[0] in PACKAGES


def calls(path: Path, names: tuple[str, ...]) -> list[str]:
    """The attributes `os.NAME`, or bare imported names, of a file that are among `names`."""
    found = []
    for node in nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            found.append(node.attr)
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            found += [alias.name for alias in node.names]
    return [name for name in found if name in names]


ROOMS = {room_of(path): imports(path) for path in SOURCES}


def ours(modules: set[str]) -> set[str]:
    return {module for module in modules if module.split(".")[0] in PACKAGES}


@pytest.mark.parametrize("room", ROOMS)
def test_a_package_imports_from_another_only_what_the_house_allows(room: str) -> None:
    package = room.split(".")[0]
    allowed = BORROWED[package] + (("tcprules.lookup",) if room.startswith(LOOKUP_TOO) else ())
    allowed += ("tcprules.install",) if room in INSTALL_TOO else ()
    foreign = {module for module in ours(ROOMS[room]) if module.split(".")[0] != package}
    assert foreign <= set(allowed), f"{room} imports {sorted(foreign - set(allowed))}"


@pytest.mark.parametrize("module", ONLY_IN)
def test_a_dear_or_dangerous_module_is_imported_only_where_it_belongs(module: str) -> None:
    names = {module, f"_{module}"}  # its C half counts as well
    importers = [room for room, modules in ROOMS.items() if names & {name.split(".")[0] for name in modules}]
    strangers = [room for room in importers if not ONLY_IN[module](room)]
    assert not strangers, f"{module} is imported by {strangers}"


def test_nobody_imports_a_command_line_or_a_main() -> None:
    guilty = [
        f"{room} imports {module}"
        for room, modules in ROOMS.items()
        for module in ours(modules)
        if module.rsplit(".", 1)[-1] in ("cli", "main")
    ]
    assert not guilty


def test_pure_rooms_touch_nothing_and_import_only_pure_rooms_of_their_own_package() -> None:
    reached = set(PURE)
    queue = list(PURE)
    while queue:  # what a pure room imports must be pure itself
        for module in ours(ROOMS[queue.pop()]) - reached:
            reached.add(module)
            queue.append(module)
    guilty = {room: sorted(ROOMS[room] & set(WORLDLY)) for room in reached if room in ROOMS}
    assert not {room: modules for room, modules in guilty.items() if modules}


def test_only_listen_gives_up_root() -> None:
    assert [room_of(path) for path in SOURCES if calls(path, IDENTITY)] == ["tcpserver.listen"]


def test_only_the_rooms_that_run_programs_fork_and_exec() -> None:
    guilty = [room_of(path) for path in SOURCES if calls(path, FORKING + EXECUTING)]
    strangers = [
        room for room in guilty if room not in MAY_FORK_OR_EXEC and not room.startswith(MAY_FORK_OR_EXEC_BELOW)
    ]
    assert not strangers
    assert "tcpserver.launch" in guilty  # the search itself finds something


def test_package_files_hold_a_docstring_and_nothing_else() -> None:
    for path in SOURCES:
        if path.name == "__init__.py":
            body = ast.parse(path.read_text()).body
            assert len(body) == 1, path
            assert ast.get_docstring(ast.parse(path.read_text())), path


def test_every_file_says_first_what_it_does() -> None:
    assert [path for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_the_walk_sees_an_import_inside_a_function_but_not_one_for_types(tmp_path: Path) -> None:
    file = tmp_path / "room.py"
    file.write_text("def f():\n    import socket\nTYPE_CHECKING = False\nif TYPE_CHECKING:\n    import ssl\n")
    assert imports(file) == {"socket"}


def test_the_free_modules_are_what_this_python_has_anyway() -> None:
    """What the per-connection programs lean on costs no import of Python source."""
    builtin = set(sys.builtin_module_names)
    assert {"_signal", "errno", "posix", "time", "pwd"} <= builtin
