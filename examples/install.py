"""Install the programs for examples/install: install.py [ --check ] PREFIX.

With --check, only print what the host still needs. Exit code 0; 100 if the installation is refused, 111 if it fails,
or if something cannot be read, and for --check 1 if something is missing.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NoReturn

from install_check import check

CHECKOUT = Path(__file__).resolve().parent.parent
NOT_FOR_HOSTS = {"test"}  # the extra with the tools of the developers
SHARED = ("man", "bash-completion", "fish", "zsh")  # below share/: files that other programs look for
COMPILED = "argon2-cffi-bindings,bcrypt,cffi"  # taken as wheels only: their sources need a compiler


def main() -> int:
    """Install, and check the host. Return the exit code."""
    prefix = Path(sys.argv[-1])
    pyproject = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    project, wheel = pyproject["project"], pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]
    programs = sorted([*project["scripts"], *wheel["shared-scripts"].values()])
    os.umask(0o022)  # the accounts of the servers must be able to read the programs
    venv = prefix / "lib" / "ucspi-smtpd"
    try:
        if "--check" in sys.argv[1:-1]:
            return check(prefix, programs)
        refuse_other_programs(prefix / "bin", venv, programs)
        make_venv(venv)
        install(venv, [extra for extra in project["optional-dependencies"] if extra not in NOT_FOR_HOSTS])
        make_links(prefix / "bin", venv, programs)
        link_shared(prefix / "share", venv / "share")
        check(prefix, programs)
    except OSError as error:
        fatal(111, error)
    return 0


def fatal(status: int, text: object) -> NoReturn:
    print(f"install: fatal: {text}", file=sys.stderr)
    sys.exit(status)


def refuse_other_programs(directory: Path, venv: Path, programs: list[str]) -> None:
    """End with 100 if a name is taken in the directory, for example by a C program."""
    taken = [name for name in programs if os.path.lexists(directory / name) and not is_link_to(directory / name, venv)]
    if taken:
        text = f"{directory} has other programs of these names: {' '.join(taken)}"
        fatal(100, f"{text}. Move them away, or choose another PREFIX")


def is_link_to(path: Path, venv: Path) -> bool:
    """Whether the path is a link to the program of the same name in the venv."""
    return path.is_symlink() and path.readlink() == venv / "bin" / path.name


def make_venv(venv: Path) -> None:
    """Make the venv. Clear an old one that has another version of Python, or no pip."""
    python = venv / "bin" / "python3"
    version = f"import sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    if not (python.exists() and works([python, "-c", version]) and works([python, "-m", "pip", "--version"])):
        print(f"install: making {venv} with Python {'.'.join(map(str, sys.version_info[:3]))}", flush=True)
        run([sys.executable, "-m", "venv", "--clear", venv], f"unable to make {venv}")


def works(words: list[str | Path]) -> bool:
    """Whether the command exits with 0."""
    return subprocess.run(words, capture_output=True).returncode == 0


def install(venv: Path, extras: list[str]) -> None:
    """Install a wheel of the checkout, then each extra."""
    print(f"install: installing into {venv}", flush=True)
    pip: list[str | Path] = [venv / "bin" / "python3", "-m", "pip", "-qq", "--disable-pip-version-check"]
    failed = "pip failed: see its messages above"
    run([*pip, "install", "--upgrade", "pip"], failed)  # the scripts of an old pip import re, which takes 5 ms
    with tempfile.TemporaryDirectory(prefix="install-") as directory:
        run([*pip, "wheel", "--no-deps", "-w", directory, CHECKOUT], failed)
        (wheel,) = Path(directory).glob("*.whl")
        run([*pip, "install", "--force-reinstall", "--no-deps", wheel], failed)  # the version may be the same
        run([*pip, "install", wheel], failed)
        for extra in extras:
            words = [*pip, "install", "--only-binary", COMPILED, f"{wheel}[{extra}]"]
            if subprocess.run(words, env=environment()).returncode:
                print(f"install: warning: the extra {extra} is not installed: see the messages of pip above")


def run(words: list[str | Path], failed: str) -> None:
    """Run a command. If it fails, end with 111."""
    if subprocess.run(words, env=environment()).returncode:
        fatal(111, failed)


def environment() -> dict[str, str]:
    """Return the environment of pip: without the C extension of pure-cdb, which would need a compiler."""
    return {**os.environ, "ENABLE_DJB_HASH_CEXT": "0"}


def make_links(directory: Path, venv: Path, programs: list[str]) -> None:
    """Make a link to each program. A link that is there already is not touched."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in programs:
        if not is_link_to(directory / name, venv):
            (directory / name).symlink_to(venv / "bin" / name)


def link_shared(directory: Path, source: Path) -> None:
    """Make a link to each manual page and completion, and to the documentation. Touch nothing that is there."""
    files = [path for name in SHARED for path in sorted((source / name).rglob("*")) if path.is_file()]
    for path in [*files, source / "doc" / "ucspi-smtpd"]:
        link = directory / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(link):
            link.symlink_to(path)


if __name__ == "__main__":
    sys.exit(main())
