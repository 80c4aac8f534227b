"""The page: well formed whatever clients have sent, complete by itself, replaced as a whole; and in a browser."""

import html.parser
import os
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmail_smtpd.report.lines import Reader
from qmail_smtpd.report.page import page
from qmail_smtpd.report.summary import summarize
from qmail_smtpd.report.tally import Tally
from tests.kit.logs import traffic
from tests.kit.peers.browser import chromium, inspect
from tests.kit.support import script

VOID = ("meta", "rect")
WIDTHS = {"desktop": 1280, "tablet": 768, "phone": 360}
ENVIRON = {"PATH": os.environ["PATH"], "TZ": "UTC"}
SCRIPT = """
  const shown = [...doc.querySelectorAll("main *")].filter(node => node.getClientRects().length);
  const style = node => view.getComputedStyle(node);
  found.width = doc.documentElement.clientWidth;
  found.scroll = doc.documentElement.scrollWidth;
  found.outside = shown.filter(n => !n.closest(".scroll table") && n.getBoundingClientRect().right > found.width + 1)
    .map(n => n.outerHTML.slice(0, 80));
  found.small = shown.filter(n => !n.closest("svg") && parseFloat(style(n).fontSize) < 12).map(n => n.tagName);
  found.headings = [...doc.querySelectorAll("h1, h2, h3")].map(n => n.innerText);
  found.text = doc.body.innerText;
  found.bars = [...doc.querySelectorAll("svg")].map(n => [n.getAttribute("class"), n.getBoundingClientRect().width,
    n.querySelectorAll("rect").length]);
  found.names = [...doc.querySelectorAll("svg[role=img]")].map(n => n.getAttribute("aria-label"));
  found.scopes = [...doc.querySelectorAll("th")].every(n => n.scope == "col" || n.scope == "row");
  found.captions = [...doc.querySelectorAll("table")].every(n => n.caption && n.caption.textContent);
  found.colours = [style(doc.body).backgroundColor, style(doc.body).color];
  doc.querySelectorAll("details").forEach(n => n.open = true);
  found.scroll_open = doc.documentElement.scrollWidth;
"""


class Strict(html.parser.HTMLParser):
    """Collects tags and text, and fails where an element is not closed in its order."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID[:1]:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(text: str) -> Strict:
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert parser.stack == []
    return parser


def page_of(log: bytes) -> str:
    tally = Tally()
    reader = Reader(tally)
    reader.feed(log)
    reader.finish()
    return page(summarize(tally, reader, 50))


PIECES = [
    b"<script>",
    b"</title>",
    b"'\">",
    b"&lt;",
    b"&#0;",
    b"--><!--",
    b"]]>",
    b"\x00",
    b"\xff",
    b"{",
    b"</style>",
    b"<svg onload=",
]
NAMES = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=9)), max_size=5).map(
    lambda parts: b"".join(parts).translate(None, b" \n=")
)
HARMLESS = parsed(page_of(traffic.text(traffic.day(300)) + b"tcpserver: status: 40/40\n"))


@given(NAMES, NAMES, NAMES)
def test_whatever_clients_have_sent_is_text(first: bytes, second: bytes, third: bytes) -> None:
    stamp = b"@400000006b0546a100000000 "
    known = b"pid=1 ip=%b helo=%b tls=%b sender=a@%b" % (first, second, third, second)
    lines = [
        b"qmail-smtpd: event=login %b result=no reason=%b user=%b" % (known, second, third),
        b"qmail-smtpd: event=login %b result=yes user=%b" % (known, third),
        b"qmail-smtpd: event=refused %b recipient=x reason=%b" % (known, second),
        b"qmail-smtpd: event=queued %b recipients=90 bytes=5 relay=login user=%b via=%b" % (known, first, second),
        b"qmail-smtpd: event=aborted %b reason=%b" % (known, third),
        b"qmail-smtpd: warning: open relay %b" % first,
        b"tcpserver: ok 1 :192.0.2.1:25 %b:%b::1" % (first, second),
    ]
    found = parsed(page_of(b"".join(stamp + line + b"\n" for line in lines * 9)))
    assert found.tags <= HARMLESS.tags
    assert found.attributes <= HARMLESS.attributes
    assert found.text.isascii() or set(filter(lambda c: not c.isascii(), found.text)) <= {"\xb7"}


def test_the_page_needs_nothing_from_elsewhere_and_runs_no_script() -> None:
    text = page_of(traffic.text(traffic.day(300)))
    assert not {"script", "link", "img", "iframe", "object", "form"} & parsed(text).tags
    assert not re.search(r"https?:|url\(|@import|\bon\w+=|javascript:", text)
    assert "default-src 'none'; style-src 'unsafe-inline'" in text


def test_an_empty_log_has_a_page() -> None:
    text = parsed(page_of(b"")).text
    assert "a log without times" in text
    assert "Nothing that this report looks for." in text


def relayreport(file: Path, log: bytes) -> "subprocess.CompletedProcess[bytes]":
    command = [script("relayreport"), "--html", str(file)]
    return subprocess.run(command, input=log, env=ENVIRON, capture_output=True)


def test_the_file_is_replaced_as_a_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text("old")
    file.chmod(0o640)
    with file.open() as reader:
        assert relayreport(file, b"").returncode == 0
        assert reader.read() == "old"
    assert file.read_text().endswith("</html>\n")
    assert file.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_page_that_cannot_be_written_is_a_clear_line(tmp_path: Path) -> None:
    done = relayreport(tmp_path / "none" / "page.html", b"")
    assert done.returncode == 111
    assert done.stderr.startswith(b"relayreport: fatal: unable to create ")
    assert relayreport(Path("/dev/full"), b"").returncode == 111


# in a browser


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a day with a stolen login, and with names as long as a log line can have them."""
    long = b"@400000006b05a6a100000000 qmail-smtpd: event=login pid=1 ip=192.0.2.1 result=no reason=password user=%b\n"
    file = tmp_path_factory.mktemp("day") / "page.html"
    log = traffic.text(traffic.day(1500)) + long % (b"\\xff" * 64) * 90 + long % (b"x" * 256) * 80
    assert relayreport(file, log).returncode == 0
    return file


@cache
def seen(file: Path, width: int, dark: bool = False) -> dict[str, Any]:
    return inspect(file, width, SCRIPT, *(["--blink-settings=preferredColorScheme=0"] if dark else []))


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_page_fits_its_window_and_is_readable(day: Path, width: int) -> None:
    found = seen(day, width)
    assert width - 20 <= found["width"] <= width  # except for a scroll bar
    assert found["scroll"] <= found["width"]
    assert found["scroll_open"] <= found["width"]
    assert found["outside"] == []
    assert found["small"] == []
    assert found["headings"][:3] == [
        "Mail relay report",
        "What looks wrong",
        f"{traffic.GUESSER} failed to log in as 30 users, then logged in as {traffic.VICTIM}",
    ]
    assert {"In all", "Over time", "Who relayed", "Why clients were refused", "Failed logins by name"} <= set(
        found["headings"]
    )
    assert [name for name, _, _ in found["bars"]] == [
        *("connections", "denied", "refused", "messages", "relayed", "failed_logins"),
    ]
    assert all(200 < wide <= found["width"] and bars > 10 for _, wide, bars in found["bars"])


@pytest.mark.peer
@pytest.mark.slow
def test_a_screen_reader_gets_names_for_charts_and_tables(day: Path) -> None:
    found = seen(day, WIDTHS["desktop"])
    assert found["scopes"]
    assert found["captions"]
    assert re.fullmatch(r"Connections by hour: 1,500 in all, most \d+ at 24 Nov \d\d:00", found["names"][0])


@pytest.mark.peer
@pytest.mark.slow
def test_the_page_is_light_or_dark_as_the_browser_is(day: Path) -> None:
    def brightness(colour: str) -> int:
        return sum(int(number) for number in re.findall(r"\d+", colour)[:3])

    light, dark = (seen(day, WIDTHS["phone"], dark)["colours"] for dark in (False, True))
    assert brightness(light[0]) > 700 > 200 > brightness(light[1])
    assert brightness(dark[0]) < 200 < 600 < brightness(dark[1])


@pytest.mark.peer
@pytest.mark.slow
def test_a_screenshot_and_a_print_are_not_empty(day: Path) -> None:
    image, paper = day.with_name("page.png"), day.with_name("page.pdf")
    chromium(day.parent, "--window-size=500,900", f"--screenshot={image}", day.as_uri())
    assert image.read_bytes().startswith(b"\x89PNG")
    assert image.stat().st_size > 10_000
    chromium(day.parent, f"--print-to-pdf={paper}", day.as_uri())
    assert paper.read_bytes().startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes())) <= 8  # in two columns, and nothing is cut off
