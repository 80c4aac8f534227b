"""The pages that set up a machine: what can be tested here. tests/machines runs their commands on Debian machines."""

import re
import subprocess

import pytest

from tests.kit.support import ROOT
from tests.machines.pages import commands, files, path

EXAMPLES = ROOT / "examples"
COMPLETE = ["roaming-address", "roaming-auth", "roaming-pop", "roaming-dovecot", "roaming-vpopmail"]
PAGES = [*COMPLETE, "roaming", "README"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
SHOWN = [*EXAMPLES.glob("**/run"), EXAMPLES / "dovecot/relay-postlogin", EXAMPLES / "dovecot/relay-2.3.conf"]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_are_shell(page: str) -> None:
    assert commands(page)
    for block in commands(page):
        done = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), block


@pytest.mark.parametrize("page", COMPLETE)
def test_the_files_on_a_page_are_those_of_the_examples(page: str) -> None:
    texts = {file.read_text() for file in SHOWN}
    assert files(page)
    assert [block for block in files(page) if block not in texts] == []


def test_each_run_script_is_on_a_page() -> None:
    shown = {block for page in COMPLETE for block in files(page)}
    scripts = [file for file in SHOWN if "log" not in file.parts and "s6" not in file.parts]
    assert [str(file) for file in scripts if file.read_text() not in shown] == []


@pytest.mark.parametrize("page", COMPLETE)
def test_a_page_needs_no_other_page(page: str) -> None:
    """From the packages to the service, in this order."""
    text = "".join(commands(page))
    steps = ["apt-get install ", "runit-run", "examples/install\n", "tcprules /etc/", "cp -rT ", "/etc/service\n"]
    assert [text.find(step) for step in steps] == sorted(text.find(step) for step in steps)
    assert -1 not in [text.find(step) for step in steps]


@pytest.mark.parametrize("page", COMPLETE[:-1])  # vpopmail's host has qmail
def test_the_queue_is_named_before_the_service_starts(page: str) -> None:
    (block,) = [block for block in commands(page) if "ln -sf /etc/sv/" in block]
    assert 0 < block.index("QMAILQUEUE=") < block.index("ln -sf /etc/sv/")


@pytest.mark.parametrize("page", COMPLETE)
def test_each_secret_gets_the_group_that_all_servers_are_in(page: str) -> None:
    """Not the group of one server, which would take the file from the other servers."""
    groups = re.findall(r"chgrp (\S+)", "".join(commands(page)))
    assert set(groups) <= {"mailauth"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT)))
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\((?!https?:)([^)#]*)[^)]*\)", text):
        assert not target or (ROOT / document).parent.joinpath(target).exists(), target


def test_no_text_installs_from_an_index_that_does_not_have_the_project() -> None:
    """`ucspi-smtpd` is not on PyPI."""
    sources = [file for package in ("tcprules", "tcpserver", "qmail_smtpd") for file in (ROOT / package).rglob("*.py")]
    wrong = re.compile(r"pip install ['\"]?ucspi-smtpd")
    assert [str(file) for file in [*DOCUMENTS, *sources] if wrong.search(file.read_text())] == []


def test_the_pages_exist() -> None:
    for page in PAGES:
        assert path(page).is_file()
