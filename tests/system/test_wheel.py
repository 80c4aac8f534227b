"""A wheel built from the tree works in an empty venv of every Python of 3.11 and later at hand, without a compiler."""

import os
import shutil
import subprocess
import sys
import zipfile
from glob import glob

import pytest

from tests.kit.mailserver import Server
from tests.kit.support import ROOT

pytestmark = pytest.mark.slow

WITHOUT_COMPILER = {**os.environ, "ENABLE_DJB_HASH_CEXT": "0", "CC": "/bin/false"}
PIP = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
ASK = "import os, sys; from importlib.util import find_spec; find_spec('venv') or sys.exit(1); \
print(*sys.version_info[:3], os.path.realpath(sys.executable))"


def pythons_at_hand():
    """Version -> path, of what is in PATH under a usual name, of pyenv's, and of the one that runs the tests."""
    names = ["python3", *(f"python3.{minor}" for minor in range(11, 20))]
    pyenv = os.path.expanduser(os.environ.get("PYENV_ROOT", "~/.pyenv"))
    in_path = [path for path in map(shutil.which, names) if path and not path.startswith(f"{pyenv}/shims/")]
    candidates = [sys.executable, *in_path, *sorted(glob(f"{pyenv}/versions/*/bin/python3")), "/usr/bin/python3"]
    found = {}
    for candidate in {os.path.realpath(candidate): None for candidate in candidates if os.path.exists(candidate)}:
        answer = subprocess.run([candidate, "-IS", "-c", ASK], capture_output=True, text=True)
        if answer.returncode == 0:
            *version, path = answer.stdout.rstrip("\n").split(" ", 3)
            if [int(number) for number in version] >= [3, 11]:
                found[".".join(version)] = path
    return found


PYTHONS = pythons_at_hand()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A directory with the wheel of the tree, and those of what it needs."""
    directory = tmp_path_factory.mktemp("wheels")
    subprocess.run([*PIP, "wheel", "--no-binary", "pure-cdb", "-w", directory, ROOT], env=WITHOUT_COMPILER, check=True)
    return directory


def test_the_wheel_holds_the_packages_and_nothing_else(wheels):
    (path,) = wheels.glob("ucspi_smtpd-*-py3-none-any.whl")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
    top = {name.split("/")[0] for name in names}
    folder = path.name.removesuffix("-py3-none-any.whl")
    assert top == {"tcprules", "tcpserver", "qmail_smtpd", folder + ".dist-info", folder + ".data"}
    scripts = {name.removeprefix(folder + ".data/") for name in names if name.startswith(folder + ".data/")}
    assert scripts == {f"scripts/{name}@" for name in ("who", "date", "finger", "http")}
    sources = {str(file.relative_to(ROOT)) for package in top for file in (ROOT / package).rglob("*.py")}
    assert sources <= set(names)
    assert {"tcprules/py.typed", "tcpserver/py.typed", "qmail_smtpd/py.typed"} <= set(names)
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_python_that_runs_the_tests_is_tried():
    """Without this the next test is empty, and green, where no Python is found."""
    assert os.path.realpath(sys.executable) in PYTHONS.values()


@pytest.mark.parametrize("version", PYTHONS)
def test_the_wheel_works_in_an_empty_venv(wheels, tmp_path, version, record_property):
    record_property("python", version)
    venv = tmp_path / "venv"
    subprocess.run([PYTHONS[version], "-m", "venv", "--without-pip", venv], check=True)
    command = [
        *PIP,
        "--python",
        venv / "bin" / "python3",
        "install",
        "--no-index",
        "--find-links",
        wheels,
        "ucspi-smtpd",
    ]
    subprocess.run(command, check=True)
    with Server(tmp_path / "home", venv / "bin", []) as server:
        with server.smtp("127.0.0.1") as smtp:
            assert smtp.sendmail("me@home.example", ["someone@elsewhere.example"], "Subject: t\n\nhello\n") == {}
        with server.smtp("127.0.0.2") as smtp:
            smtp.ehlo()
            smtp.mail("me@home.example")
            assert smtp.rcpt("someone@elsewhere.example")[0] == 553
        assert server.bodies() == [b"Subject: t\n\nhello\n"]
        environ = {"TCPREMOTEIP": "127.0.0.1"}
        answer = subprocess.run(
            [venv / "bin" / "tcprulescheck", server.cdb], env=environ, capture_output=True, text=True, check=True
        )
    assert answer.stdout == "rule 127.0.0.1:\nset environment variable RELAYCLIENT=\nallow connection\n"
