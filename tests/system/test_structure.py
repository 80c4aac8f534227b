"""What the contracts in pyproject.toml (import-linter) cannot express: which files may use sockets, TLS, fork, exec, or
change identity. A broken rule names the file."""

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.support import ROOT

PACKAGES = ("tcprules", "tcpserver", "qmail_smtpd")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

TLS = ("qmail_smtpd.net.tls", "qmail_smtpd.probe.starttls")  # the second is a client
SOCKETS = (
    "tcpserver.address.operands",
    "tcpserver.parent.admission",
    "tcpserver.parent.listen",
    "tcpserver.parent.serve",
    "tcpserver.parent.pool",
    "tcpserver.parent.proxied",
    "tcpserver.child.names",
    "tcpserver.child.ident",
    "tcpserver.child.worker",
    "tcpserver.handover",
    "qmail_smtpd.auth.dovecot",
    "qmail_smtpd.net.wire",  # to shut down one direction
    "qmail_smtpd.report.cli",  # for the error of --listen with an unknown name
    "qmail_smtpd.net.ownaddress",
    "qmail_smtpd.pop3.tunnel",
    "qmail_smtpd.services.connection",
    "qmail_smtpd.services.resolver",
)
SOCKETS_BELOW = ("tcpserver.tools.", "qmail_smtpd.probe.", "qmail_smtpd.recipients.", "qmail_smtpd.relay.")

FORKING = ("fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen")
EXECUTING = ("execv", "execve", "execvp", "execvpe", "execl", "execle", "execlp", "execlpe")
MAY_FORK_OR_EXEC = (
    "tcpserver.cli",
    "tcpserver.chain",
    "tcpserver.parent.forking",
    "tcpserver.tools.plumbing",
    "qmail_smtpd.child",  # for the queue client, auth/checkpassword and pop3/popup
)
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
COMPLETE = [
    ("tcpserver takes from tcprules", "forbidden_modules", "tcprules", "entry hostnet lookup network strerr"),
    ("qmail_smtpd takes from tcpserver", "forbidden_modules", "tcpserver", "chain"),
    ("qmail_smtpd takes from tcprules", "forbidden_modules", "tcprules", "compile entry install strerr termination"),
    ("The conversation does no I/O: smtp/ imports nothing of ours", "forbidden_modules", "qmail_smtpd", "smtp"),
    ("What parent and child share", "source_modules", "tcpserver", "child cli parent tools"),
    ("A server does not use the tools", "source_modules", "tcpserver", "tools"),
    ("The tools take from tcpserver", "forbidden_modules", "tcpserver", "address chain child environ tools"),
    ("The tools take from tcpserver", "forbidden_modules", "tcpserver.child", "ident names"),
]  # a contract, its list, the package whose modules the list must have, and those that it must not have
MAY_FORK_OR_EXEC_BELOW = ("qmail_smtpd.queue.", "qmail_smtpd.probe.")
IDENTITY = ("setuid", "setgid", "setgroups", "seteuid", "setegid", "setreuid", "setregid", "setresuid", "setresgid")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_code(path: Path) -> bool:
    """Whether this is a module or a package, in the folder of another package."""
    return (path / "__init__.py").exists() or (path.suffix == ".py" and path.stem != "__init__")


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node, except below `if TYPE_CHECKING:`, which no process ever imports."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from nodes(child)


def imports(path: Path) -> set[str]:
    """The modules that a file imports, by the first part of their names."""
    found = set()
    for node in nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add((node.module or "").split(".")[0])
    return found


def calls(path: Path, names: tuple[str, ...]) -> list[str]:
    """The attributes `os.NAME`, or names imported from os, of a file that are among `names`."""
    found = []
    for node in nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            found.append(node.attr)
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            found += [alias.name for alias in node.names]
    return [name for name in found if name in names]


@functools.cache
def imports_of_all() -> dict[str, set[str]]:
    return {module_of(path): imports(path) for path in SOURCES}


@pytest.mark.parametrize(("name", "modules", "below"), [("ssl", TLS, ()), ("socket", SOCKETS, SOCKETS_BELOW)])
def test_sockets_and_tls_are_loaded_only_where_they_belong(
    name: str, modules: tuple[str, ...], below: tuple[str, ...]
) -> None:
    names = {name, f"_{name}"}  # the C half counts, too
    importers = [module for module, found in imports_of_all().items() if found & names]
    assert not [module for module in importers if module not in modules and not module.startswith(below or ("-",))]
    assert importers  # the search itself finds something


def test_only_listen_gives_up_root() -> None:
    assert [module_of(path) for path in SOURCES if calls(path, IDENTITY)] == ["tcpserver.parent.listen"]


def test_only_the_modules_that_run_programs_fork_and_exec() -> None:
    found = [module_of(path) for path in SOURCES if calls(path, FORKING + EXECUTING)]
    violations = [
        module for module in found if module not in MAY_FORK_OR_EXEC and not module.startswith(MAY_FORK_OR_EXEC_BELOW)
    ]
    assert not violations
    assert "tcpserver.parent.forking" in found  # the search itself finds something


@pytest.mark.parametrize(("contract", "key", "package", "others"), COMPLETE)
def test_a_contract_that_lists_modules_names_every_one(contract: str, key: str, package: str, others: str) -> None:
    """Otherwise a new module could do what the contract's name forbids."""
    (listed,) = [set(entry[key]) for entry in CONTRACTS if entry["name"].startswith(contract)]
    found = {f"{package}.{path.stem}" for path in (ROOT / package.replace(".", "/")).iterdir() if is_code(path)}
    below = {name for name in listed if name.rpartition(".")[0] == package}
    assert below == found - {f"{package}.{name}" for name in others.split()}


def test_the_packages_that_know_nothing_of_each_other_are_all_but_the_shared_ones() -> None:
    (listed,) = [set(entry["modules"]) for entry in CONTRACTS if entry["type"] == "independence"]
    packages = {f"qmail_smtpd.{path.parent.name}" for path in (ROOT / "qmail_smtpd").glob("*/__init__.py")}
    assert listed == packages - {"qmail_smtpd.net", "qmail_smtpd.pop3", "qmail_smtpd.smtp"}


def test_package_files_hold_a_docstring_and_nothing_else() -> None:
    for path in SOURCES:
        if path.name == "__init__.py":
            body = ast.parse(path.read_text()).body
            assert len(body) == 1, path
            assert ast.get_docstring(ast.parse(path.read_text())), path


def test_every_file_says_first_what_it_does() -> None:
    assert [path for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_old_pips_can_install_every_console_script() -> None:
    names = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert [
        name for name in names if not re.fullmatch(r"[\w.-]+", name, re.ASCII)
    ] == []  # pip 23.0 ends in a TypeError


def test_no_folder_has_grown_too_large() -> None:
    """Ten files at the top of a package, thirty of tests in a folder."""
    for package in ("tcpserver", "qmail_smtpd"):
        assert len(list((ROOT / package).glob("*.py"))) <= 10, package
    for folder in [ROOT / "tests", *(path for path in (ROOT / "tests").rglob("*") if path.is_dir())]:
        assert len(list(folder.glob("*.py"))) <= 30, folder


def test_the_walk_sees_an_import_inside_a_function_but_not_one_for_types(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("def f():\n    import socket\nTYPE_CHECKING = False\nif TYPE_CHECKING:\n    import ssl\n")
    assert imports(file) == {"socket"}


def test_the_free_modules_are_what_this_python_has_anyway() -> None:
    """The modules on which the per-connection programs rely need no import of Python source."""
    builtin = set(sys.builtin_module_names)
    assert {"_signal", "errno", "posix", "time", "pwd"} <= builtin
