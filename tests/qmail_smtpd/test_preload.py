"""The warm-up sessions of a preloading parent: they have no visible effect."""

import gc
import os
import re
from pathlib import Path

import pytest

from qmail_smtpd import control, preload
from qmail_smtpd.backend import SessionBackend
from qmail_smtpd.setup import ControlFiles
from qmail_smtpd.smtp.session import Session
from tests.kit.mailhome import CONTROL, make_home
from tests.kit.server import Server, children
from tests.kit.support import script

SHORT = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<u@example.com>\r\nRCPT TO:<u@outside.example>\r\nQUIT\r\n"


def test_warm_up_sessions_leave_no_trace(capfd: pytest.CaptureFixture[str]) -> None:
    gc.collect()
    gc.disable()
    try:
        before = sorted(os.listdir("/proc/self/fd")), dict(os.environ)
        preload.warm_up(SessionBackend)
        assert (sorted(os.listdir("/proc/self/fd")), dict(os.environ)) == before
        assert not [item for item in gc.get_objects() if isinstance(item, (Session, SessionBackend))]
    finally:
        gc.enable()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_long_list_of_domains_costs_the_server_no_memory(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "rcpthosts": "".join(f"d{n}.example.com\n" for n in range(50_000))})
    words = ["-v", "-RHl0", "--preload", "qmail-smtpd", "127.0.0.1", "0", script("qmail-smtpd")]
    for sessions, limit_mb in ("1", 20), ("50", 40):
        with Server(["--reuse", sessions, *words], environ={"QMAILHOME": str(home)}) as server:
            for number in range(1, 21):
                server.ask(SHORT)
                server.wait_for_log(rb"tcpserver: end ", number)
            processes = [server.pid, *children(server.pid)]
            assert len(processes) == (1 if sessions == "1" else 2)
            assert all(resident(pid) < limit_mb * 1024 for pid in processes)


def resident(pid: int) -> int:
    """Return the kB of anonymous memory of a process."""
    return int(re.findall(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def test_the_server_starts_without_a_qmail_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    words = ["-v", "-RHl0", "--preload", "qmail-smtpd", "127.0.0.1", "0", script("qmail-smtpd")]
    with Server(words, environ={"QMAILHOME": str(home)}) as server:
        assert server.ask(SHORT).startswith(b"421 ")
        make_home(home, CONTROL)
        lines = server.ask(SHORT).split(b"\r\n")
        assert [line[:3] for line in lines if line[3:4] == b" "] == [b"220", b"250", b"250", b"250", b"553", b"221"]
    with Server(words, environ={"QMAILHOME": str(home)}) as server:
        server.ask(SHORT)
        assert server.wait_for_log(rb"tcpserver: end ").count(b"qmail-smtpd: ") == 1  # for the refused recipient


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, control.HomeCache]:
    """The cache of control files, empty and enabled; a file that has just been written can be cached, too."""
    monkeypatch.setattr(control, "cache_enabled", [True])
    monkeypatch.setattr(control, "current_cache", [])
    monkeypatch.setattr(control, "SETTLED", 0.0)
    caches: dict[bytes, control.HomeCache] = {}
    monkeypatch.setattr(control, "caches", caches)
    return caches


def domains(home: Path) -> frozenset[bytes] | None:
    """Return rcpthosts as a session of a child reads it."""
    before = Path.cwd()
    control.enter(os.fsencode(home))
    try:
        return control.cached("settings", ControlFiles).settings.rcpthosts
    finally:
        os.chdir(before)
        control.leave()


def test_the_children_find_the_control_files_read(
    tmp_path: Path, cache: dict[bytes, control.HomeCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = make_home(tmp_path / "home", CONTROL)
    before = Path.cwd()
    preload.read_control_files({b"QMAILHOME": os.fsencode(home)})
    assert Path.cwd() == before
    assert not control.current_cache
    assert cache[os.fsencode(home)].files
    with monkeypatch.context() as patched:
        patched.setattr(control, "open_control", None)
        assert b"example.com" in (domains(home) or ())
    (home / "control/rcpthosts").write_text("changed.example\n")
    assert domains(home) == {b"changed.example"}


@pytest.mark.parametrize("trouble", ["no home", "no control/me", "long list", "dangling link"])
def test_control_files_that_a_child_has_to_read_itself_do_not_stop_the_server(
    tmp_path: Path, cache: dict[bytes, control.HomeCache], trouble: str
) -> None:
    home = make_home(tmp_path / "home", CONTROL)
    if trouble == "no home":
        home = tmp_path / "missing"
    elif trouble == "no control/me":
        (home / "control/me").unlink()
    elif trouble == "long list":
        (home / "control/rcpthosts").write_text("".join(f"d{number}.example.com\n" for number in range(5000)))
    else:
        (home / "control/badmailfrom").symlink_to("missing")
    before = Path.cwd()
    preload.read_control_files({b"QMAILHOME": os.fsencode(home)})
    assert Path.cwd() == before
    assert not any("settings" in known.values for known in cache.values())
