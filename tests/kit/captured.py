"""The captured sessions as test cases, and the normalisation of replies before a comparison."""

import json
import re
from typing import Any

from tests.kit.support import ROOT


def cases(name: str) -> list[dict[str, Any]]:
    """Return the cases of a file, with our results (`right`) where they differ on purpose (`right_because`)."""
    found = [json.loads(line) for line in (ROOT / "tests/data" / name).read_text().splitlines()]
    return [case | case.get("right", {}) for case in found]


CASES = cases("smtpd.jsonl")
QUEUE_ORDERS = {"exit": "QQEXIT", "err": "QQERR", "signal": "QQSIGNAL", "mode": "QQMODE"}
DATE = re.compile(rb"; \d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d -0000\n")


def latin(text: str) -> bytes:
    return text.encode("latin-1")


def without_size(stdout: bytes) -> bytes:
    """Return the replies without SIZE, which the original does not offer."""
    return re.sub(rb"250-8BITMIME\r\n250 SIZE \d+\r\n", b"250 8BITMIME\r\n", stdout)
