"""The catalogue of relaytest: it contains the probes of the other tools, marked, and describes each probe."""

import json
import re
from pathlib import Path

import pytest

from qmail_smtpd.probe.catalogue import ABUSE_NET, NMAP, RECIPIENTS, SENDERS, address_probes
from qmail_smtpd.probe.probes import DECIDES, ENVELOPE, Names, fill, is_name
from qmail_smtpd.probe.tricks import ENDINGS, trick_probes
from tests.kit.relaytest import relaytest
from tests.kit.support import ROOT, peer

PROBES = [*address_probes(), *trick_probes()]
BY_NAME = {probe.name: probe for probe in PROBES}
NAMES = Names(
    user=b"relaytest",
    out=b"evil.test",
    listed=b"example.com",
    me=b"mx.example.org",
    ip=b"127.0.0.1",
    sender=b"antispam",
)


def commands(name: str, names: Names = NAMES) -> list[bytes]:
    return [fill(step.text, names) for step in BY_NAME[name].steps]


def test_each_probe_has_a_unique_name_a_source_and_a_reason() -> None:
    assert len(BY_NAME) == len(PROBES)
    for probe in PROBES:
        assert re.fullmatch(r"[a-z0-9-]+(/[a-z0-9-]+)?", probe.name)
        assert probe.source
        assert probe.why
        assert probe.kind != ENVELOPE or probe.steps[-1].role == DECIDES


def test_every_sender_is_combined_with_every_recipient() -> None:
    kinds = [name for _, _, rows in RECIPIENTS for name, *_ in rows]
    assert len(kinds) == len(set(kinds)) >= 70
    assert {f"{sender}/{kind}" for sender, *_ in SENDERS for kind in kinds} <= set(BY_NAME)


def test_the_twenty_probes_of_abuse_net_are_those_of_the_captured_session() -> None:
    lines = (ROOT / "tests/data/smtpd.jsonl").read_text().splitlines()
    [case] = [case for line in lines if (case := json.loads(line))["name"] == "abuse-net-probes-listed-me"]
    captured = [line for line in case["stdin"].encode("latin-1").split(b"\r\n") if line.startswith(b"RCPT")]
    assert [commands(f"null/{name}")[1] for name in ABUSE_NET] == captured
    assert len(ABUSE_NET) == 20
    for number, name in enumerate(ABUSE_NET, 1):
        assert f"abuse.net {number}" in BY_NAME[f"null/{name}"].source.split(", ")


@pytest.mark.peer
def test_the_sixteen_probes_of_nmap_are_those_of_its_script() -> None:
    text = Path(peer("/usr/share/nmap/scripts/smtp-open-relay.nse")).read_text()
    tests = text[text.index("local tests = {") : text.index("-- This function is used when")]
    values = {
        "to": "relaytest",
        "from": "antispam",
        "domain": "evil.test",
        "ip": "127.0.0.1",
        "srvname": "mx.example.org",
    }
    expected = []
    for sender, recipient in re.findall(r"from = (.*?),\n\s*to = (.*?\))\n", tests):
        expected.append([evaluate(sender, values), evaluate(recipient, values)])
    actual = [
        [command.partition(b":<")[2].removesuffix(b">").decode() for command in commands(f"{sender}/{recipient}")]
        for sender, recipient in NMAP
    ]
    assert actual == expected
    assert len(actual) == 16


def evaluate(lua: str, values: dict[str, str]) -> str:
    """Evaluate a Lua string literal, or a string.format of one with variables."""
    match = re.fullmatch(r'string\.format\("(.*)", (.*)\)', lua)
    if not match:
        return lua.strip('"')
    text = match[1].replace('\\"', '"')
    return text % tuple(values[name.strip()] for name in match[2].split(","))


def test_each_known_ending_is_tried() -> None:
    endings = {ending for _, ending in ENDINGS}
    assert {b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\n", b"\n.\r", b"\r.\r", b"\r.\r\n", b"\r\n.\r"} <= endings
    assert all(ending != b"\r\n.\r\n" for ending in endings)


def test_only_logins_and_messages_need_an_option() -> None:
    assert {probe.name.partition("-")[0] for probe in PROBES if probe.needs == "auth"} == {"auth"}
    assert {probe.name.partition("/")[0] for probe in PROBES if probe.needs == "send"} == {"smuggling"}
    assert not any(
        b"DATA" in step.text or b"AUTH" in step.text for probe in PROBES if not probe.needs for step in probe.steps
    )


def test_a_probe_that_may_end_a_line_early_has_a_connection_of_its_own() -> None:
    for probe in PROBES:
        if any(byte in step.text for step in probe.steps for byte in (b"\0", b"\r")):
            assert probe.alone


def test_no_command_contains_a_line_end() -> None:
    for probe in PROBES:
        assert not any(b"\n" in fill(step.text, NAMES) for step in probe.steps)


@pytest.mark.parametrize("text", [b"", b"a\r\nRCPT", b"a b", b"a>", b".a", b"-a", b"x" * 256, b"\xff.example", b"a\0"])
def test_an_invalid_name_of_a_server_is_not_used(text: bytes) -> None:
    assert not is_name(text)


def test_the_list_contains_every_kind_with_its_marks() -> None:
    done = relaytest("--list")
    assert (done.exit, done.stderr) == (0, "")
    for number in range(1, 17):
        assert re.search(rf"\bnmap {number} \(", done.stdout)
    for number in range(1, 21):
        assert re.search(rf"\babuse\.net {number} \(", done.stdout)
    names = {line.split(":")[0].strip() for line in done.lines}
    assert {
        probe.recipient if "/" in probe.name and probe.kind == ENVELOPE else probe.name for probe in PROBES
    } <= names
    assert {sender for sender, *_ in SENDERS} <= names
    assert done.stdout.isascii()
