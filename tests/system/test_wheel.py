"""The sdist of the tree, and the wheel built from it, work in an empty venv of each available Python from 3.11 on.

No compiler is needed.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
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


def available_pythons():
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


PYTHONS = available_pythons()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A directory with the sdist of the tree, and the wheel that is built from it."""
    directory = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "-o", directory, ROOT]
    done = subprocess.run(command, env=WITHOUT_COMPILER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


@pytest.fixture(scope="module")
def wheels(built, tmp_path_factory):
    """A directory with the wheel, and those of what it needs."""
    directory = tmp_path_factory.mktemp("wheels")
    (wheel,) = built.glob("*.whl")
    subprocess.run([*PIP, "wheel", "--no-binary", "pure-cdb", "-w", directory, wheel], env=WITHOUT_COMPILER, check=True)
    return directory


def test_twine_finds_both_files_fit_for_an_index(built):
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *sorted(built.iterdir())]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout.count("PASSED")) == (0, 2), result.stdout + result.stderr


def test_the_sdist_holds_what_packagers_need(built):
    (path,) = built.glob("*.tar.gz")
    folder = path.name.removesuffix(".tar.gz")
    with tarfile.open(path) as archive:
        names = set(archive.getnames())
    wanted = ("LICENSE", "CHANGELOG.md", "share/generate", "docs/tcpserver.md", "tests/run")
    assert names >= {f"{folder}/{name}" for name in wanted}
    assert not [name for name in names if "/.venv/" in name or name.endswith((".pyc", ".deb", ".whl"))]


def test_the_wheel_holds_the_packages_and_what_belongs_to_them_and_nothing_else(wheels):
    (path,) = wheels.glob("ucspi_smtpd-*-py3-none-any.whl")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
    top = {name.split("/")[0] for name in names}
    folder = path.name.removesuffix("-py3-none-any.whl")
    assert top == {"tcprules", "tcpserver", "qmail_smtpd", folder + ".dist-info", folder + ".data"}
    extras = {name.removeprefix(folder + ".data/") for name in names if name.startswith(folder + ".data/")}
    scripts = {name for name in extras if name.startswith("scripts/")}
    assert scripts == {f"scripts/{name}@" for name in ("who", "date", "finger", "http")}
    below_share = {name.removeprefix("data/share/") for name in extras - scripts}
    generated = {f"{path.relative_to(ROOT / 'share')}" for path in (ROOT / "share").glob("*/*/*") if path.is_file()}
    assert below_share >= generated
    assert {name.split("/")[0] for name in below_share} == {"man", "bash-completion", "fish", "zsh", "doc"}
    assert below_share >= {f"doc/ucspi-smtpd/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert "doc/ucspi-smtpd/examples/systemd/qmail-smtpd.service" in below_share
    sources = {str(file.relative_to(ROOT)) for package in top for file in (ROOT / package).rglob("*.py")}
    assert sources <= set(names)
    assert {"tcprules/py.typed", "tcpserver/py.typed", "qmail_smtpd/py.typed"} <= set(names)
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_classifiers_name_each_python_from_the_oldest_that_is_required():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    start = "Programming Language :: Python :: 3."
    minors = [int(text.removeprefix(start)) for text in project["classifiers"] if text.startswith(start)]
    assert minors == list(range(11, 11 + len(minors)))
    assert minors[-1] >= 14
    assert project["requires-python"] == f">=3.{minors[0]}"


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
