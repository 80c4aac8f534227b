"""What a program prints, and how it exits, when its main function raises an exception."""

import re
import subprocess
import sys

import pytest

CODE = """
import sys, types
from tcprules import entry, strerr
def main():
    FAULT
def scarce(*words):
    raise MemoryError
sys.modules["the.module"] = types.SimpleNamespace(main=main)
entry.__import__ = lambda name, **_: sys.modules[name]
PREPARE
entry.start("prog", "the.module", status=STATUS)
"""
SCARCE = "prog: fatal: out of memory\n"
RAISED_FROM = "try: raise MemoryError\n    except MemoryError as error: raise SystemError('x') from error"


@pytest.mark.parametrize(
    ("fault", "prepare", "message", "status"),
    [
        ("raise MemoryError", "", SCARCE, 71),
        (RAISED_FROM, "", SCARCE, 71),
        ("raise KeyError('a bug')", "strerr.report_bug = scarce", SCARCE, 71),
        ("raise MemoryError", "entry.has_reader = scarce", "", 71),
        ("raise SystemError('a bug')", "", r"Traceback .*\nSystemError: a bug\n", 1),
        ("raise KeyError('a bug')", "", r"Traceback .*\nKeyError: 'a bug'\n", 1),
        ("raise KeyError('a bug')", "sys.modules['traceback'] = None", r"Traceback .*\nKeyError: 'a bug'\n", 1),
        ("return 'why'", "", "why\n", 1),
        ("return 3", "", "", 3),
    ],
)
def test_missing_memory_is_one_line_and_a_bug_a_traceback(fault: str, prepare: str, message: str, status: int) -> None:
    code = CODE.replace("FAULT", fault).replace("PREPARE", prepare).replace("STATUS", "71")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert re.fullmatch(message, done.stderr, re.DOTALL), done.stderr
    assert done.returncode == status


@pytest.mark.parametrize("error", ["MemoryError", "SystemError('error return without exception set')"])
def test_missing_memory_for_the_program_itself_is_one_line(error: str) -> None:
    code = f"from tcprules import entry\ndef load(*_, **__): raise {error}\nentry.__import__ = load\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "entry.start('prog', 'm')"], capture_output=True, text=True, check=False
    )
    assert (done.stderr, done.returncode) == (SCARCE, 111)
