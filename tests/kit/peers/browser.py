"""Chromium without a screen: what it shows of a page in a window of some width."""

import json
import os
import re
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

from tests.kit.support import peer

CHROMIUM = "/usr/bin/chromium"
PATIENCE = 120  # seconds; a browser's first start is slow
COMMAND = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage")

# A page that loads the page under test in a frame of this width, and records what the script finds.
INSPECTOR = """<!DOCTYPE html><meta charset="utf-8"><body>
<iframe id="frame" src="{file}" style="width:{width}px;height:900px;border:0"></iframe><pre id="found"></pre>
<script>
document.getElementById("frame").onload = function () {{
  const doc = this.contentDocument, view = this.contentWindow, found = {{}};
  {script}
  document.getElementById("found").textContent = JSON.stringify(found);
}};
</script>"""


def chromium(directory: Path, *words: str) -> str:
    """Run Chromium in a profile of its own. Return what it prints."""
    command = [peer(CHROMIUM), *COMMAND, f"--user-data-dir={directory}/profile"]
    command += ["--virtual-time-budget=20000", "--timeout=60000", *words]
    environ = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout


def inspect(file: Path, width: int, script: str, *words: str) -> dict[str, Any]:
    """Return `found`, after the script has filled it from `doc` and `view`."""
    inspector = file.with_name(f"inspect-{width}.html")
    inspector.write_text(INSPECTOR.format(file=file.name, width=width, script=script))
    done = chromium(file.parent, "--allow-file-access-from-files", *words, "--dump-dom", inspector.as_uri())
    match = re.search(r'<pre id="found">(.*?)</pre>', done, re.DOTALL)
    assert match, done[:2000]
    found: dict[str, Any] = json.loads(unescape(match[1]))
    return found
