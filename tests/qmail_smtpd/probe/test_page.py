"""relaytest's page in a real browser, in a window of a desktop and of a phone: its content, and whether it fits."""

import json
import os
import re
import subprocess
from functools import cache
from html import unescape
from pathlib import Path

import pytest

from tests.kit.mailhome import make_home
from tests.kit.peers.standin import StandIn, behave
from tests.kit.relaytest import over_network, relaytest
from tests.kit.server import compiled
from tests.kit.support import peer

pytestmark = pytest.mark.peer

CHROMIUM = "/usr/bin/chromium"
WIDTHS = {"desktop": 1280, "phone": 360}
PATIENCE = 120  # seconds; a browser's first start is slow

# A page that loads the page under test in a frame of this width, and records its properties.
INSPECTOR = """<!DOCTYPE html><meta charset="utf-8"><body>
<iframe id="frame" src="{file}" style="width:{width}px;height:900px;border:0"></iframe><pre id="found"></pre>
<script>
document.getElementById("frame").onload = function () {{
  const doc = this.contentDocument, view = this.contentWindow, found = {{}};
  const visible = [...doc.querySelectorAll("main *")].filter(node => node.getClientRects().length);
  const style = node => view.getComputedStyle(node);
  found.width = doc.documentElement.clientWidth;
  found.scroll = doc.documentElement.scrollWidth;
  found.text = doc.body.innerText;
  found.outside = visible.filter(n => n.getBoundingClientRect().right > found.width + 1).map(n => n.tagName);
  found.small = visible.filter(n => parseFloat(style(n).fontSize) < 12).map(n => n.tagName);
  const title = doc.querySelector("h1").getBoundingClientRect();
  found.title = {{top: title.top, height: title.height, colour: style(doc.querySelector("h1")).color}};
  found.open = [...doc.querySelectorAll("details[open] summary")].map(n => n.innerText);
  found.shut = doc.querySelectorAll("details:not([open])").length;
  doc.querySelectorAll("details").forEach(n => n.open = true);
  const cells = [...doc.querySelectorAll("tbody tr:first-child td")].map(n => n.getBoundingClientRect());
  found.cells = cells.map(box => [Math.round(box.left), Math.round(box.top)]);
  found.scroll_open = doc.documentElement.scrollWidth;
  document.getElementById("found").textContent = JSON.stringify(found);
}};
</script>"""


@cache
def inspect(file: Path, width: int) -> dict:
    """Return what a browser shows of the page in a window of this width."""
    inspector = file.with_name(f"inspect-{width}.html")
    inspector.write_text(INSPECTOR.format(file=file.name, width=width))
    done = chromium(file.parent, "--allow-file-access-from-files", "--dump-dom", inspector.as_uri())
    match = re.search(r'<pre id="found">(.*?)</pre>', done, re.DOTALL)
    assert match, done[:2000]
    return json.loads(unescape(match[1]))


def chromium(directory: Path, *words: str) -> str:
    """Run Chromium without a screen, in its own profile."""
    command = [
        peer(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-dev-shm-usage",
    ]
    command += [f"--user-data-dir={directory}/profile", "--virtual-time-budget=20000", "--timeout=60000", *words]
    environ = {"PATH": os.environ["PATH"], "HOME": str(directory)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout


LONG = b"x" * 280 + b" <b>bold</b>"


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an open server, which accepts a source route and replies with a long word."""

    def answer(visit, line):
        if line == b"RCPT TO:<@example.com:relaytest@example.net>":
            return b"250 " + LONG + b"\r\n"
        return behave(visit, line)

    file = tmp_path_factory.mktemp("relay") / "page.html"
    with StandIn(answer) as server:
        assert over_network(server.port, "--listed", "example.com", "--html", file).exit == 1
    return file


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of rules with one rule too many."""
    directory = tmp_path_factory.mktemp("rules")
    home = make_home(directory / "home", {"me": "mx.example.com\n", "rcpthosts": "example.com\n"})
    text = '127.:allow,RELAYCLIENT=""\n203.0.113.0/24:allow,RELAYCLIENT="",TARPIT="' + "9" * 200 + '"\n:allow\n'
    (directory / "tcp.smtp").write_text(text)
    file = directory / "page.html"
    cdb = compiled(directory / "tcp.smtp.cdb", text)
    assert relaytest("--rules", cdb, "--home", home, "--html", file).exit == 1
    return file


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", ["relay", "rules"])
def test_the_page_fits_its_window_and_is_readable(name: str, width: int, request: pytest.FixtureRequest) -> None:
    properties = inspect(request.getfixturevalue(name), width)
    assert width - 20 <= properties["width"] <= width  # except for a scroll bar
    assert properties["scroll"] <= properties["width"]
    assert properties["scroll_open"] <= properties["width"]  # also with everything unfolded
    assert properties["outside"] == []
    assert properties["small"] == []
    assert properties["title"]["top"] < 60
    assert properties["text"].startswith("Open relay\n")


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_open_probes_are_unfolded_with_their_transcripts_and_the_rest_is_folded(relay: Path, width: int) -> None:
    properties = inspect(relay, width)
    assert [text.split()[:2] for text in properties["open"]] == [["open", "route-listed"]]
    assert properties["shut"] > 1
    text = properties["text"]
    assert "C: RCPT TO:<@example.com:relaytest@example.net>\nS: 250 " + LONG.decode() in text
    assert text.index("What to change") < text.index("What each client may do") < text.index("What was not refused")
    assert "it reads the address in one way, and the delivery reads it in another" in text


def test_the_table_is_a_table_on_a_desktop_and_a_list_on_a_phone(relay: Path) -> None:
    desktop, phone = (inspect(relay, width)["cells"] for width in WIDTHS.values())
    assert len({left for left, _ in desktop}) == 3
    assert len({top for _, top in desktop}) == 1
    assert len({left for left, _ in phone}) == 1
    assert len({top for _, top in phone}) == 3


def test_the_page_of_rules_shows_what_each_client_may_do_and_which_line_to_change(rules: Path) -> None:
    text = inspect(rules, WIDTHS["phone"])["text"]
    assert re.search(r"closed 192\.0\.2\.1 an outside client\s", text)
    assert re.search(r"inside 127\.0\.0\.1 this host\s+it may relay\s+rule 127\.:, RELAYCLIENT=", text)
    assert re.search(r"open 203\.0\.113\.1 rule 203\.0\.113\.\s+it may relay, and is not inside", text)
    assert f"{rules.parent}/tcp.smtp, line 2: 203.0.113.0/24:allow" in text


def test_the_verdict_has_its_colour(relay: Path) -> None:
    red, green, _ = (int(number) for number in re.findall(r"\d+", inspect(relay, WIDTHS["phone"])["title"]["colour"]))
    assert red > green


def test_a_screenshot_is_not_empty(relay: Path) -> None:
    screenshot = relay.with_name("page.png")
    chromium(relay.parent, "--window-size=500,900", "--hide-scrollbars", f"--screenshot={screenshot}", relay.as_uri())
    assert screenshot.read_bytes().startswith(b"\x89PNG")
    assert screenshot.stat().st_size > 10_000
