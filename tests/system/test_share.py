"""What the wheel installs below share/: manual pages and completions are current, and their readers understand them."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.support import ROOT, peer, script

MAN = ROOT / "share" / "man"
BASH = ROOT / "share" / "bash-completion" / "completions"
PAGES = sorted(MAN.glob("man*/*"))
PATIENCE = 30.0  # seconds for a shell to answer


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*words: str | Path, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, **options)


def text_of(page: Path) -> str:
    """The page's roff, of the page that it names if it is one line `.so`."""
    text = page.read_text()
    return (MAN / text.split()[1]).read_text() if text.startswith(".so ") else text


def test_manual_pages_and_completions_are_current() -> None:
    """If not: .venv/bin/python share/generate."""
    result = run(sys.executable, ROOT / "share" / "generate", "--check")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.slow
def test_a_page_of_docs_that_changes_is_noticed(tmp_path: Path) -> None:
    for name in ("share", "docs", "tcprules", "tcpserver", "qmail_smtpd", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("share", "docs"):
        (tmp_path / name).unlink()
        subprocess.run(["cp", "-R", ROOT / name, tmp_path], check=True)
    with (tmp_path / "docs" / "relay-list.md").open("a") as page:
        page.write("\nOne more paragraph.\n")
    generate = [sys.executable, str(tmp_path / "share" / "generate")]
    stale = run(*generate, "--check")
    assert (stale.returncode, stale.stdout) == (1, "share/man/man8/relay-list.8\n")
    assert run(*generate).returncode == 0
    assert "\nOne more paragraph.\n" in (tmp_path / stale.stdout.strip()).read_text()
    assert run(*generate, "--check").returncode == 0


def test_every_program_has_a_manual_page_which_names_it() -> None:
    metadata = project()
    scripts = metadata["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-scripts"].values()
    pages = {page.stem: text_of(page) for page in PAGES}
    assert set(pages) >= {*metadata["project"]["scripts"], *scripts}
    for program in {*metadata["project"]["scripts"], *scripts}:
        names = re.search(r"^\.SH \"NAME\"\n((?:.+\n)+?)\.SH", pages[program], re.MULTILINE)[1]
        assert re.search(rf"(?m)^(.*, )?{re.escape(program)}(, .*)? \\- \w", names), program


def test_every_module_with_a_click_command_has_completion() -> None:
    imports = (ROOT / "share" / "completion.py").read_text()
    modules = [
        path for package in ("tcprules", "tcpserver", "qmail_smtpd") for path in (ROOT / package).rglob("cli.py")
    ]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules]
    assert [name for name in names if f"\nfrom {name} import " not in imports] == []
    assert len(names) >= 5  # the search itself finds something


@pytest.mark.peer
def test_mandoc_finds_nothing_to_warn_about() -> None:
    mandoc = peer("/usr/bin/mandoc")
    pages = [page for page in PAGES if not page.read_text().startswith(".so ")]
    assert len(pages) > 20
    assert run(mandoc, "-T", "lint", "-W", "warning", *pages).stdout == ""


@pytest.mark.peer
def test_apropos_can_index_every_page() -> None:
    """lexgrog is what mandb reads a page's name and description with."""
    lexgrog = peer("/usr/bin/lexgrog")
    lines = run(lexgrog, *(page for page in PAGES if not page.read_text().startswith(".so "))).stdout
    indexed = set(re.findall(r'"(\S+) - \S', lines))
    assert indexed >= {page.stem for page in PAGES} - {"ucspi-tools"}


@pytest.mark.peer
@pytest.mark.parametrize("page", ["tcpserver.1", "qmail-smtpd.8", "ucspi-tools.1"])
def test_man_shows_a_page_in_eighty_columns(page: str) -> None:
    man = peer("/usr/bin/man")
    environ = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
    shown = run(man, "--warnings", "-l", MAN / f"man{page[-1]}" / page, env=environ)
    assert not re.sub(r"(?m)^troff:.*(can't|cannot) break line\n", "", shown.stderr)
    assert "\nNAME\n" in shown.stdout
    assert "](" not in shown.stdout  # no Markdown is left
    text = shown.stdout.partition("\nDESCRIPTION\n")[2]
    prose = [line for line in text.splitlines() if line.startswith("       ") and not line.startswith(" " * 8)]
    assert max(map(len, prose)) <= 80


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator["Terminal"]:
    """bash at a terminal, with our completions, in a directory with the file tcp.smtp.cdb."""
    (tmp_path / "tcp.smtp.cdb").touch()
    shell = Terminal(tmp_path)
    yield shell
    shell.end()


class Terminal:
    """A pseudo terminal with bash. Reads until a line is as expected, or time is up."""

    def __init__(self, directory: Path) -> None:
        self._child, self._master = pty.fork()
        if not self._child:
            os.chdir(directory)
            environ = {"PATH": f"{Path(script('tcpserver')).parent}:/usr/bin:/bin", "TERM": "dumb", "PS1": "> "}
            os.execve("/bin/bash", ["bash", "--norc", "--noprofile", "-i"], environ)
        self._seen = ""
        for file in BASH.iterdir():
            self.type(f"source {file}\n")
        self.type("echo rea''dy\n")
        self.expect("ready\r\n")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def expect(self, text: str) -> None:
        while text not in self._seen:
            ready, _, _ = select.select([self._master], [], [], PATIENCE)
            assert ready, f"{text!r} is not in {self._seen!r}"
            self._seen += os.read(self._master, 4096).decode()
        self._seen = ""

    def end(self) -> None:
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        os.close(self._master)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("relay-list --j", "relay-list --json "),
        ("relaytest --ver", "relaytest --verbose "),
        ("relaytest --rules tcp", "relaytest --rules tcp.smtp.cdb "),
        ("relaytest --only x --pip", "relaytest --only x --pipe "),
        ("checkusers --scheme BLF", "checkusers --scheme BLF-CRYPT "),
        ("tcprules --str", "tcprules --strict "),
        ("tcprulescheck tcp", "tcprulescheck tcp.smtp.cdb "),
        ("tcpserver --proxy-f", "tcpserver --proxy-from "),
        ("tcpserver -v --log-format j", "tcpserver -v --log-format json "),
        ("tcpserver -x tcp", "tcpserver -x tcp.smtp.cdb "),
        ("tcpserver -x tcp.smtp.cdb 0 smtp qmail-smt", "tcpserver -x tcp.smtp.cdb 0 smtp qmail-smtpd "),
        ("tcpserver 0 smtp cat tcp", "tcpserver 0 smtp cat tcp.smtp.cdb "),
    ],
)
def test_bash_completes_at_a_terminal(terminal: Terminal, typed: str, completed: str) -> None:
    terminal.type(f"{typed}\t")
    terminal.expect(completed)


@pytest.mark.peer
def test_fish_completes(tmp_path: Path) -> None:
    fish = peer("/usr/bin/fish")
    folder = ROOT / "share" / "fish" / "vendor_completions.d"
    environ = {"HOME": str(tmp_path), "PATH": f"{Path(script('relay-list')).parent}:/usr/bin:/bin"}

    def completed(line: str) -> list[str]:
        code = f"set fish_complete_path {folder}; complete -C '{line}'"
        return [found.split("\t")[0] for found in run(fish, "--no-config", "-c", code, env=environ).stdout.splitlines()]

    assert completed("relay-list --j") == ["--json"]
    assert completed("tcpserver --log-format j") == ["json"]
    assert "--rules" in completed("relaytest --r")


@pytest.mark.peer
def test_zsh_completes_at_a_terminal(tmp_path: Path) -> None:
    """zsh's own pseudo terminal, because completion exists only in its line editor."""
    zsh = peer("/usr/bin/zsh")
    code = f"""
        zmodload zsh/zpty
        zpty shell {zsh} -f -i
        zpty -w shell 'PS1= ; fpath=({ROOT}/share/zsh/site-functions $fpath); autoload -U compinit; compinit -D -u'
        zpty -w shell 'echo rea""dy'
        zpty -r -m shell seen '*ready*'
        zpty -w -n shell $'relay-list --js\\t'
        zpty -r -m shell seen '*--json *'
        zpty -w -n shell $'\\x15tcpserver --log-format js\\t'
        zpty -r -m shell seen '*--log-format json *'
        echo completed
    """
    environ = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "TERM": "dumb"}
    result = run(zsh, "-f", "-c", code, env=environ, timeout=PATIENCE)
    assert result.stdout == "completed\n", result
