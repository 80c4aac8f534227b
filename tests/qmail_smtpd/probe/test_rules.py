"""relaytest --rules: which clients it tests, what they may do, and that tcprulescheck agrees on every client."""

import os
import random
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from qmail_smtpd.probe import clients
from tcprules.cli import tcprulescheck
from tcprules.compile import BadLine, records, write_cdb
from tcprules.lookup import Rules, canonical, judge, open_rules
from tests.kit import forked, rulesfuzz
from tests.kit.mailhome import make_home
from tests.kit.relaytest import Outcome, relaytest
from tests.kit.server import compiled
from tests.kit.support import script, times

pytestmark = pytest.mark.slow

ME = {"me": "mail.example.com\n"}
RULES = """\
127.0.0.1:allow,RELAYCLIENT=""
192.168.10.:allow,RELAYCLIENT=""
203.0.113.9:allow,RELAYCLIENT=""
198.51.100.:deny
2001:db8:5::/48:allow,DATABYTES="1"
=.friend.example:allow
:allow
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path / "home", {**ME, "rcpthosts": "example.com\n"})


def ask(tmp_path: Path, home: Path, rules: str, *words: object) -> Outcome:
    (tmp_path / "tcp.smtp").write_text(rules)
    cdb = compiled(tmp_path / "tcp.smtp.cdb", rules)
    return relaytest("--rules", cdb, "--home", home, *words)


def verdicts_of(done: Outcome) -> dict[str, str]:
    """Return the verdict of each client in --json."""
    return {client["client"]: client["verdict"] for client in done.json["clients"]}


# the clients


def test_outside_clients_loopback_and_one_of_each_network_are_tested(tmp_path: Path, home: Path) -> None:
    done = ask(tmp_path, home, RULES, "--json")
    assert verdicts_of(done) == {
        "192.0.2.1": "closed",
        "2001:db8::1": "closed",
        "127.0.0.1": "inside",
        "192.168.10.1": "inside",
        "203.0.113.9": "open",
        "198.51.100.1": "denied",
        "2001:db8:5::1": "closed",
        "192.0.2.1=relaytest.friend.example": "closed",
    }
    assert done.exit == 1
    [change] = [change for change in done.json["change"] if "RELAYCLIENT" in change["where"]]
    assert change["where"] == f'{tmp_path}/tcp.smtp, line 3: 203.0.113.9:allow,RELAYCLIENT=""'


def test_inside_names_public_addresses(tmp_path: Path, home: Path) -> None:
    done = ask(tmp_path, home, RULES, "--inside", "203.0.113.9", "--only", "null/plain")
    assert done.exit == 0
    assert done.verdict == "closed: 4 clients may not relay, 3 inside may, 1 denied"


def test_clients_can_be_named(tmp_path: Path, home: Path) -> None:
    rules = RULES + 'joe@=mail.friend.example:allow,RELAYCLIENT=""\n'
    words = ("--client", "8.8.8.8", "--client", "joe@8.8.8.8=mail.friend.example", "--client", "::FFFF:127.0.0.1")
    done = ask(tmp_path, home, rules, "--json", *words)
    assert verdicts_of(done) == {"8.8.8.8": "closed", "joe@8.8.8.8=mail.friend.example": "open", "127.0.0.1": "inside"}


def test_with_inside_clients_alone_the_verdict_is_inside_or_cannot_tell(tmp_path: Path, home: Path) -> None:
    done = ask(tmp_path, home, RULES, "--client", "127.0.0.1")
    assert (done.exit, done.verdict.partition(":")[0]) == (2, "inside")
    done = ask(tmp_path, home, RULES, "--client", "127.0.0.1", "--client", "192.168.10.1")
    assert done.verdict == "cannot tell: no outside client was tested"


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.4.5", "01.2.3.4", "256.1.1.1", "x", "1.2.3.4 ", ":::", "1.2.3.4\n"]
)
def test_an_invalid_client_is_one_clear_line(tmp_path: Path, home: Path, text: str) -> None:
    done = ask(tmp_path, home, RULES, f"--client={text}")
    assert done.exit == 100
    assert done.stderr.startswith("relaytest: fatal: not a client address: ")


def test_a_network_is_tested_with_an_address_that_no_narrower_rule_covers(tmp_path: Path) -> None:
    lines = ["10.:allow", *(f"10.{octet}.:deny" for octet in range(255)), "10.255.1.:deny", "10.255.0.1:deny"]
    lines += ["2001:db8::/32:allow", "2001:db8::/36:deny", "2001:db8:1000::1:deny"]
    rules = open_rules(str(compiled(tmp_path / "r.cdb", "\n".join(lines) + "\n")))
    found = {client.reason: client.ip for client in clients.default_clients(rules)}
    assert found["rule 10."] == b"10.255.0.0"
    assert found["rule 2001:0db8:/"] == b"2001:db8:1000::2"
    assert found["rule 2001:0db8:0/"] == b"2001:db8::1"


def test_a_rule_that_can_apply_to_no_client_is_not_tested(tmp_path: Path) -> None:
    text = "".join(f"1.2.3.{octet}:allow\n" for octet in range(256)) + "1.2.3.:deny\n10.1:deny\n=Upper.example:deny\n"
    rules = open_rules(str(compiled(tmp_path / "r.cdb", text)))
    found = {client.reason for client in clients.default_clients(rules)}
    assert not found & {"rule 1.2.3.", "rule 10.1", "rule =Upper.example"}
    assert "rule 1.2.3.255" in found


def test_the_rule_for_any_name_is_tested_although_another_one_has_the_usual_name(tmp_path: Path, home: Path) -> None:
    rules = '=.example.net:allow\n=:allow,RELAYCLIENT=""\n:allow\n'
    done = ask(tmp_path, home, rules, "--only", "outside/plain", "--json")
    assert done.exit == 1
    assert verdicts_of(done)["192.0.2.1=relaytest"] == "open"


def test_outside_clients_are_chosen_outside_of_all_rules(tmp_path: Path) -> None:
    text = '192.0.2.:deny\n198.51.:deny\n203.:deny\n1.:deny\n2001:db8::/32:deny\n:allow,RELAYCLIENT=""\n'
    rules = open_rules(str(compiled(tmp_path / "r.cdb", text)))
    for client in clients.default_clients(rules)[:2]:
        assert judge(rules, client.ip, client.host, client.info).key == b""


# what the clients may do


def test_the_named_program_is_run_for_each_client(tmp_path: Path, home: Path) -> None:
    """A chain that lets a single client relay, as relay-check does for a client in its store."""
    code = 'import os; os.environ.update(RELAYCLIENT="") if os.environ["TCPREMOTEIP"] == "8.8.4.4" else None; '
    code += f'os.execv({script("qmail-smtpd")!r}, ["qmail-smtpd"])'
    words = ("--client", "8.8.8.8", "--client", "8.8.4.4", "--client", "8.8.8.9", "--json", sys.executable, "-c", code)
    assert verdicts_of(ask(tmp_path, home, ":allow\n", *words)) == {
        "8.8.8.8": "closed",
        "8.8.4.4": "open",
        "8.8.8.9": "closed",
    }


def test_variables_of_the_rules_reach_the_session(tmp_path: Path, home: Path) -> None:
    other = make_home(tmp_path / "other", dict(ME))
    done = ask(tmp_path, home, f'8.8.8.8:allow,QMAILHOME="{other}"\n:allow\n', "--json")
    assert verdicts_of(done)["8.8.8.8"] == "open"  # that home has no rcpthosts
    assert verdicts_of(done)["192.0.2.1"] == "closed"


def test_a_rules_variable_replaces_the_clients_as_in_tcpserver(tmp_path: Path, home: Path) -> None:
    code = 'import os; os.environ.update(RELAYCLIENT="") if os.environ["TCPREMOTEIP"] == "9.9.9.9" else None; '
    code += f'os.execv({script("qmail-smtpd")!r}, ["qmail-smtpd"])'
    words = ("--client", "8.8.8.8", "--json", sys.executable, "-c", code)
    assert verdicts_of(ask(tmp_path, home, '8.8.8.8:allow,TCPREMOTEIP="9.9.9.9"\n', *words)) == {"8.8.8.8": "open"}


def test_a_rule_that_gives_an_open_home_is_named(tmp_path: Path, home: Path) -> None:
    other = make_home(tmp_path / "other", {"me": "mx.example.org\n"})
    rules = tmp_path / "tcp.smtp"
    rules.write_text(f'203.0.113.1:allow,QMAILHOME="{other}"\n:allow\n')
    done = relaytest("--rules", compiled(tmp_path / "tcp.smtp.cdb", rules.read_text()), "--home", home)
    assert done.exit == 1
    assert f"change: {rules}, line 1: 203.0.113.1:allow,QMAILHOME=" in done.stdout
    assert "gives the server another home" in done.stdout


def test_denied_clients_count_as_outside(tmp_path: Path, home: Path) -> None:
    cdb = compiled(tmp_path / "tcp.smtp.cdb", '10.:allow,RELAYCLIENT=""\n:deny\n')
    done = relaytest("--rules", cdb, "--home", home)
    assert (done.exit, done.verdict) == (0, "closed: 1 inside may, 3 denied")


def test_a_rule_with_maxconip_0_denies(tmp_path: Path, home: Path) -> None:
    rules = '8.8.8.8:allow,MAXCONIP="0"\n8.8.4.4:allow,MAXCONIP="0000000005"\n:allow\n'
    verdicts = verdicts_of(ask(tmp_path, home, rules, "--json", "--only", "null/plain"))
    assert verdicts["8.8.8.8"] == "denied"
    assert verdicts["8.8.4.4"] != "denied"


def test_without_rcpthosts_the_advice_names_the_file_and_not_a_rule(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", dict(ME))
    done = ask(tmp_path, home, ":allow\n")
    assert done.exit == 1
    assert f"change: {home}/control/rcpthosts: is missing" in done.stdout


def test_if_the_rules_have_changed_the_advice_names_the_cdb(tmp_path: Path, home: Path) -> None:
    cdb = compiled(tmp_path / "tcp.smtp.cdb", ':allow,RELAYCLIENT=""\n')
    (tmp_path / "tcp.smtp").write_text("127.:allow\n")
    done = relaytest("--rules", cdb, "--home", home)
    assert f"change: {cdb}, rule :: gives RELAYCLIENT to every client" in done.stdout


@pytest.mark.parametrize("content", [None, b"", b"x" * 3000])
def test_unreadable_rules_are_one_clear_line(tmp_path: Path, home: Path, content: bytes | None) -> None:
    cdb = tmp_path / "r.cdb"
    if content is not None:
        cdb.write_bytes(content)
    done = relaytest("--rules", cdb, "--home", home)
    assert done.exit == 111
    assert done.stderr.startswith(f"relaytest: fatal: unable to read {cdb}: ")


def test_a_fifo_is_not_waited_for(tmp_path: Path, home: Path) -> None:
    cdb = compiled(tmp_path / "tcp.smtp.cdb", ":allow\n")
    os.mkfifo(tmp_path / "fifo")
    done = relaytest("--rules", tmp_path / "fifo", "--home", home)
    wanted = f"relaytest: fatal: unable to read {tmp_path}/fifo: "
    assert (done.exit, done.stderr) == (111, f"{wanted}unseekable descriptor\n")
    done = relaytest("--rules", cdb, "--home", home, "--source", tmp_path / "fifo", "--client", "10.0.0.1")
    assert (done.exit, done.stderr) == (111, f"{wanted}timed out\n")
    os.mkfifo(tmp_path / "tcp.smtp")  # the source beside the cdb, which is needed only for the advice
    assert relaytest("--rules", cdb, "--home", home, "--client", "10.0.0.1", "--only", "null/plain").exit == 0


@pytest.mark.parametrize("name", ["rcpthosts", "relaystrict", "morercpthosts.cdb"])
def test_a_list_that_is_a_dangling_link_is_one_clear_line(tmp_path: Path, home: Path, name: str) -> None:
    (home / "control" / name).unlink(missing_ok=True)
    (home / "control" / name).symlink_to("nowhere")
    done = ask(tmp_path, home, ":allow\n")
    assert (done.exit, done.stdout) == (111, "")
    assert re.fullmatch(r"relaytest: fatal: unable to read .*: file does not exist.*\n", done.stderr)


def test_a_home_with_unreadable_controls_is_cannot_tell(tmp_path: Path, home: Path) -> None:
    (home / "control" / "databytes").mkdir()
    done = ask(tmp_path, home, ":allow\n")
    assert done.exit == 2
    assert "421 unable to read controls" in done.stdout
    assert "qmail-smtpd: warning: unable to read control/databytes: is a directory" in done.stdout


# agreement with tcprulescheck


NEAR = [b"1.2.3.4", b"10.1.2.3", b"127.0.0.1", b"255.255.255.255", b"0.0.0.0", b"2001:db8::1", b"::1"]


def clients_near(chance: random.Random, rules: bytes) -> list[str]:
    """Return clients for --client that are close to the addresses in the rules."""
    found = []
    for _ in range(5):
        environ = rulesfuzz.client(chance, rules)
        ip = environ.get(b"TCPREMOTEIP", b"")
        if clients.parse_quad(ip) is None and canonical(ip) is None:
            ip = chance.choice(NEAR)
        info, host = environ.get(b"TCPREMOTEINFO"), environ.get(b"TCPREMOTEHOST")
        text = (b"" if info is None else info + b"@") + ip + (b"" if host is None else b"=" + host)
        found.append(text.decode("utf-8", "surrogateescape"))
    return found


def compiles(line: bytes) -> bool:
    """Whether tcprules accepts the line."""
    try:
        return bool(list(records([line])))
    except BadLine:
        return False


def explain(cdb: Path, client: clients.Client) -> list[bytes]:
    """Return what tcprulescheck --explain prints for the client, without the keys that it tried."""
    environ = {b"TCPREMOTEIP": client.ip, b"TCPREMOTEHOST": client.host, b"TCPREMOTEINFO": client.info}
    known = {name: value for name, value in environ.items() if value is not None}
    done = forked.run(tcprulescheck, ["tcprulescheck", "--explain", str(cdb)], environ=known)
    assert done.exit == 0
    return [line for line in done.stdout.split(b"\n") if line and not line.startswith(b"try ")]


@given(seed=some.integers(0, 2**32), relay=some.sampled_from([b'RELAYCLIENT=""', b'RELAYCLIENT="@x"', b'A="b"']))
@settings(max_examples=times(5))
def test_tcprulescheck_and_relaytest_agree_on_every_client(
    tmp_path_factory: pytest.TempPathFactory, seed: int, relay: bytes
) -> None:
    chance = random.Random(seed)
    lines = [rulesfuzz.address(chance) + b":" + chance.choice([b"allow", b"deny", b"allow," + relay]) for _ in range(9)]
    lines = [line for line in lines if compiles(line)]
    rules = b"\n".join(chance.sample([*lines, b"127.:allow", b"2001:db8::/32:allow," + relay, b""], k=len(lines) + 3))
    directory = tmp_path_factory.mktemp("agree")
    home = make_home(directory / "home", {**ME, "rcpthosts": "example.com\n"})
    write_cdb(bytes(directory / "r.cdb"), bytes(directory / "r.tmp"), records(rules.split(b"\n")))
    named = [word for text in clients_near(chance, rules) for word in ("--client", text)]
    report = relaytest("--rules", directory / "r.cdb", "--home", home, "--json", "--only", "null/plain", *named)
    texts = named[1::2]
    for text, client in zip(texts, report.json["clients"], strict=True):
        explanation = explain(directory / "r.cdb", clients.parse(text))
        lines = [line.decode("ascii", "backslashreplace") for line in explanation]
        assert (client["verdict"] == "denied") == (explanation[-1] == b"deny connection")
        assert lines[0] == ("default:" if client["rule"] == "default" else client["rule"].replace("\\\\", "\\"))
        if client["verdict"] != "denied":
            variables = [line.removeprefix("set environment variable ") for line in lines[1:-1]]
            assert client["environment"] == variables
            may_relay = any(line.startswith("RELAYCLIENT=") for line in variables)
            assert client["verdict"] in (("open", "inside") if may_relay else ("closed",))


@given(seed=some.integers(0, 2**32))
@settings(max_examples=times(50))
def test_the_client_for_a_rule_is_one_that_the_rule_applies_to(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    chance = random.Random(seed)
    lines = [rulesfuzz.address(chance) + b":allow" for _ in range(20)] + [
        b"2001:db8::/%d:allow" % (4 * chance.randrange(8, 33))
    ]
    directory = tmp_path_factory.mktemp("rules")
    pairs = records(line for line in lines if compiles(line))
    write_cdb(bytes(directory / "r.cdb"), bytes(directory / "r.tmp"), pairs)
    rules = Rules.from_bytes((directory / "r.cdb").read_bytes())
    found = clients.default_clients(rules)
    assert len({client[:3] for client in found}) == len(found)
    for client in found[3:]:
        key = judge(rules, client.ip, client.host, client.info).key or b""
        assert client.reason == f"rule {clients.printable(key)}"
