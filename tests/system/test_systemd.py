"""examples/systemd: every unit is confined, and what the drop-in, the accounts and the directories are for."""

import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from tests.kit.mailhome import CONTROL, make_home
from tests.kit.server import PATIENCE, compiled, listens, needs_root, until
from tests.kit.support import ROOT, free_port, peer, script
from tests.kit.tlspeer import certify, trusting

FOLDER = ROOT / "examples" / "systemd"
SERVICES = sorted(FOLDER.glob("*.service"))
DROP_IN = FOLDER / "setgid-queue.conf"
WORST = 3.0  # exposure, of 10
ACTIVATE = "/usr/bin/systemd-socket-activate"
# Root becomes another account, which still owns its files: qmail-popup refuses TLS as root.
AS_USER = ["unshare", "--user", "--map-user=65534", "--map-group=65534"] if os.getuid() == 0 else []
ENCRYPTED = ("qmail-submissions", "qmail-pop3s")  # from the first byte
# systemd.exec(5), NoNewPrivileges=: what sets it where the unit has User=, and so no CAP_SYS_ADMIN.
IMPLY_NO_NEW_PRIVILEGES = {
    "DynamicUser",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "NoNewPrivileges",
    "PrivateDevices",
    "ProtectClock",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RestrictSUIDSGID",
    "SystemCallArchitectures",
    "SystemCallFilter",
    "SystemCallLog",
}


def settings(path: Path) -> list[tuple[str, str]]:
    """The (name, value) of every line of a unit."""
    lines = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def programs(path: Path) -> list[str]:
    return re.findall(r"/usr/local/bin/(\S+)", dict(settings(path))["ExecStart"])


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.stem)
def test_a_service_runs_our_programs_behind_a_socket_as_another_account(service: Path) -> None:
    found = dict(settings(service))
    assert found["User"] in ("qmaild", "pop")
    assert "CapabilityBoundingSet" in found
    assert found["CapabilityBoundingSet"] == ""
    assert " fd: " in found["ExecStart"]
    assert service.with_suffix(".socket").exists()
    assert [script(program) for program in programs(service)]
    preloaded = re.findall(r"--preload (\S+)", found["ExecStart"])
    assert set(preloaded) == {name for name in programs(service) if name != "tcpserver"}


def test_the_services_are_confined_in_the_same_way() -> None:
    but = ("Description", "Requires", "User", "Environment", "ExecStart", "ReadWritePaths")
    confined = {tuple((name, value) for name, value in settings(path) if name not in but) for path in SERVICES}
    assert (len(SERVICES), len(confined)) == (5, 1)


@pytest.mark.skipif(not os.path.exists(ACTIVATE), reason="no systemd here")
@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.stem)
def test_a_service_greets_behind_systemd_s_socket(service: Path, tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", CONTROL)
    certificate, _ = certify(home / "control")
    found = dict(settings(service))
    command = found["ExecStart"].replace("/etc/tcp.smtp.cdb", str(compiled(home / "cdb", ":allow\n")))
    folder = str(Path(script("tcpserver")).parent)
    port = free_port()
    variables = [*found.get("Environment", "").split(), f"QMAILHOME={home}", f"PATH={folder}:/usr/bin:/bin"]
    words = [*AS_USER, ACTIVATE, "-l", f"127.0.0.1:{port}", *[f"--setenv={variable}" for variable in variables]]
    words += command.replace("/usr/local/bin", folder).replace("%H", "mx.example.org").split()
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: listens(port))
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
                if service.stem in ENCRYPTED:
                    client = trusting(certificate).wrap_socket(client, server_hostname="localhost")
                with client, client.makefile("rb") as lines:
                    assert lines.readline()[:4] in (b"220 ", b"+OK ")
        finally:
            process.kill()


def test_the_drop_in_undoes_all_that_implies_no_new_privileges() -> None:
    undone = {name for name, value in settings(DROP_IN) if value in ("no", "")}
    asked = {name for path in SERVICES for name, value in settings(path) if value not in ("no", "")}
    assert undone == asked & IMPLY_NO_NEW_PRIVILEGES
    assert undone >= {"NoNewPrivileges", "SystemCallFilter"}  # the search itself finds something


@pytest.mark.peer
@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.stem)
def test_systemd_rates_the_exposure_as_low(service: Path) -> None:
    command = [peer("/usr/bin/systemd-analyze"), "security", "--offline=true", "--no-pager", str(service)]
    shown = subprocess.run(command, capture_output=True, text=True)
    level = re.search(r"Overall exposure level for \S+: (\d+\.\d)", shown.stdout)
    assert level, shown
    assert float(level[1]) < WORST


@pytest.mark.peer
@needs_root
def test_the_accounts_and_directories_can_be_created(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for name in ("sysusers", "tmpfiles"):
        words = [peer(f"/usr/bin/systemd-{name}"), f"--root={tmp_path}", FOLDER / f"{name}.conf"]
        words += ["--create"] if name == "tmpfiles" else []
        subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
    accounts = [line.split(":")[0] for line in (tmp_path / "etc/passwd").read_text().splitlines()]
    assert set(accounts) >= {"qmaild", "qmaill", "pop"}
    members = {line.split(":")[0]: line.split(":")[3] for line in (tmp_path / "etc/group").read_text().splitlines()}
    assert sorted(members["mailauth"].split(",")) == ["pop", "qmaild"]
    assert members["relay"] == "pop"
    modes = {path: (tmp_path / path).stat().st_mode & 0o7777 for path in ("var/lib/relay", "var/lib/relay/counts")}
    assert modes == {"var/lib/relay": 0o2775, "var/lib/relay/counts": 0o2770}
