"""What a program that runs once a connection loads: the list of its imports in a fresh interpreter."""

from pathlib import Path

import pytest

from tests.kit.imports import check, imported
from tests.kit.mailhome import CONTROL, MESSAGE, make_home
from tests.kit.policyserver import PolicyServer, says
from tests.kit.support import script

SMTPD_MODULES = 31  # measured: 25 before the greeting, 31 with a message; 29 of them are our own
XCLIENT_MODULES = 33  # measured: 33 without $XCLIENTRULES, whose cdb needs cdblib
POLICY_MODULES = 40  # measured: 40 with a recipient that the service refuses
LIMITED_MODULES = 48  # measured: 48 with the directory store
RBL_MODULES = 17  # measured: 17
PLUGIN_MODULES = 38  # measured: 38 at most, with a recipient that a plugin refuses
QUEUE_MODULES = 11  # measured: 11


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    return imported(["-c", "pass"], tmp_path_factory.mktemp("bare"), b"")


@pytest.mark.parametrize("text", ["", MESSAGE], ids=["greeting", "message"])
def test_qmail_smtpd_loads_only_cheap_modules_and_few(text: str, bare: set[str], tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    check(imported([script("qmail-smtpd")], home, text.encode() + b"QUIT\r\n") - bare, SMTPD_MODULES)
    assert len(list((home / "dump").glob("*.m"))) == bool(text)


def test_a_session_with_xclient_loads_only_cheap_modules_and_few(bare: set[str], tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "xclienthosts": "192.0.2.1\n"})
    commands = b"EHLO x\r\nXCLIENT ADDR=192.0.2.7\r\nQUIT\r\n"
    loaded = imported([script("qmail-smtpd")], home, commands, TCPREMOTEIP="192.0.2.1") - bare
    assert "qmail_smtpd.xclient.client" in loaded
    check(loaded, XCLIENT_MODULES)


def test_a_session_with_a_policy_service_loads_only_cheap_modules_and_few(bare: set[str], tmp_path: Path) -> None:
    with PolicyServer(says("REJECT")) as server:
        home = make_home(tmp_path / "home", {**CONTROL, "policyservice": f"{server.name}\n"})
        loaded = imported([script("qmail-smtpd")], home, MESSAGE.encode() + b"QUIT\r\n") - bare
    assert len(server.questions) == 1
    check(loaded, POLICY_MODULES)


def test_a_session_with_relay_limits_loads_only_cheap_modules_and_few(bare: set[str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    (store / "counts").mkdir(parents=True)
    home = make_home(tmp_path / "home", {**CONTROL, "relaylimits": ".: 9/3600\n", "relaydir": f"{store}\n"})
    commands = b"MAIL <a@b>\r\nRCPT <a@away.test>\r\nQUIT\r\n"
    loaded = imported([script("qmail-smtpd")], home, commands, RELAYCLIENT="", TCPREMOTEIP="192.0.2.1") - bare
    assert [path.name for path in (store / "counts").iterdir()] == ["address=192.0.2.1"]
    check(loaded, LIMITED_MODULES)


def test_a_session_with_plugins_loads_only_cheap_modules_and_few(bare: set[str], tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", {**CONTROL, "smtpplugins": "[rcpt]\n:echo E550 no\n"})
    loaded = imported([script("qmail-smtpd")], home, MESSAGE.encode() + b"QUIT\r\n") - bare
    assert "qmail_smtpd.plugins.run" in loaded
    check(loaded, PLUGIN_MODULES)


def test_maildir_queue_loads_only_cheap_modules_and_few(bare: set[str], tmp_path: Path) -> None:
    envelope = tmp_path / "envelope"
    envelope.write_bytes(b"Fs@s.test\0Tu@ok.test\0\0")
    check(imported([script("maildir-queue")], tmp_path, b"hello\n", envelope) - bare, QUEUE_MODULES)
    assert len(list((tmp_path / "Maildir/new").iterdir())) == 1


@pytest.mark.parametrize("more", [{}, {"RBLSMTPD": ""}, {"RBLSMTPD": "no"}], ids=["no list", "accepted", "refused"])
def test_rblsmtpd_loads_only_cheap_modules_and_few(more: dict[str, str], bare: set[str], tmp_path: Path) -> None:
    words = [script("rblsmtpd"), "-r", "list.invalid"] if more else [script("rblsmtpd")]
    check(imported([*words, "true"], tmp_path, b"quit\r\n", **more) - bare, RBL_MODULES)
