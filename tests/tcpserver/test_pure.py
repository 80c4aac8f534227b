"""The pure modules of tcpserver: facts to environment, settings to words and back, accounts, paths."""

import os
import pwd
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcpserver import chain, environ
from tcpserver.address import operands
from tcpserver.environ import Facts
from tcpserver.parent import inherited, listen, loadable
from tcpserver.parent.account import account
from tcpserver.settings import CONVERTERS, LISTS, Settings, octets
from tests.kit.consolescript import install_script

# -- environ

names = st.sampled_from([b"A", b"B", b"C", b"PROTO", b"TCPREMOTEHOST"])
values = st.binary(max_size=3).filter(lambda value: b"\0" not in value)


def pathexec(entries: list[bytes], edits: list[tuple[bytes, bytes | None]]) -> list[bytes]:
    """pathexec_env.c, transcribed: the array of entries as the original rearranges it."""
    found = list(entries)
    for name, value in edits:
        for at, entry in enumerate(found):
            if entry.startswith(name + b"="):
                found[at] = found[-1]
                found.pop()
                break
        if value is not None:
            found.append(name + b"=" + value)
    return found


@given(st.dictionaries(names, values), st.lists(st.tuples(names, st.none() | values)))
def test_variables_are_in_the_order_in_which_pathexec_leaves_them(
    start: dict[bytes, bytes], edits: list[tuple[bytes, bytes | None]]
) -> None:
    found = dict(start)
    environ.edit(found, edits)
    entries = [name + b"=" + value for name, value in start.items()]
    assert [name + b"=" + value for name, value in found.items()] == pathexec(entries, edits)


def facts(remote: bytes = b"192.0.2.2") -> Facts:
    return Facts(b"192.0.2.1", 25, remote, 1234)


def test_the_variables_of_a_connection_in_the_originals_order() -> None:
    found = facts()
    found.local_host, found.remote_info = b"", b"joe"
    assert environ.variables(found) == [
        (b"PROTO", b"TCP"),
        (b"TCPLOCALIP", b"192.0.2.1"),
        (b"TCPLOCALPORT", b"25"),
        (b"TCPLOCALHOST", b""),
        (b"TCPREMOTEIP", b"192.0.2.2"),
        (b"TCPREMOTEPORT", b"1234"),
        (b"TCPREMOTEHOST", None),
        (b"TCPREMOTEINFO", b"joe"),
    ]


def test_an_ipv6_client_has_both_sets_of_variables() -> None:
    edits = environ.variables(facts(b"2001:db8::1"))
    assert edits[0] == (b"PROTO", b"TCP6")
    old = [(name, value) for name, value in edits[1:] if not name.startswith(b"TCP6")]
    new = [(b"TCP" + name[4:], value) for name, value in edits[1:] if name.startswith(b"TCP6")]
    assert new == [*old, (b"TCPINTERFACE", None)]
    assert len(old) == 7


def test_variables_for_the_server_are_not_passed_on_to_programs() -> None:
    systemd = [
        b"LISTEN_FDS",
        b"LISTEN_PID",
        b"LISTEN_PIDFDID",
        b"LISTEN_FDNAMES",
        b"NOTIFY_SOCKET",
        b"SYSTEMD_EXEC_PID",
    ]
    others = [b"WATCHDOG_PID", b"WATCHDOG_USEC", b"TCP6REMOTEIP", b"TCP6LOCALHOST", b"TCP6INTERFACE"]
    kept = dict.fromkeys((b"A", b"LISTEN", b"INVOCATION_ID", b"JOURNAL_STREAM", b"MANAGERPID", b"TCP6X"), b"2")
    assert environ.base({**kept, **dict.fromkeys(systemd + others, b"1")}) == kept


def test_an_inherited_variable_is_never_taken_for_one_of_the_connection() -> None:
    every = facts(b"2001:db8::1")
    for name in Facts.__slots__:
        if getattr(every, name) is None:
            setattr(every, name, b"x")
    every.never_relays = True
    names = [name for name, _ in environ.with_rule(every, [])]
    assert {b"PROXYREMOTEIP", b"TCPREMOTEVIA", b"TCP6INTERFACE", b"TCPCONNECTION", b"NORELAY"} <= set(names)
    found = environ.base(dict.fromkeys(names, b"forged"))
    environ.edit(found, environ.variables(facts()))
    assert [name for name, value in found.items() if value == b"forged"] == [b"RELAYCLIENT"]  # the administrator's


def test_an_environment_block_is_read_as_getenv_reads_it() -> None:
    block = b"A=1\0B=\0A=2\0no value\0=no name\0C=a=b\0\xff=\xfe\0"
    assert inherited.pairs(block) == {b"A": b"1", b"B": b"", b"C": b"a=b", b"\xff": b"\xfe"}
    assert inherited.pairs(b"") == {}


# -- settings

texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])) | st.just("\udcff=\n")
FIELDS = {
    name: st.integers(0, 2**31) if name in CONVERTERS else texts for name in Settings.__slots__
}  # fmt: skip


def test_every_field_that_is_not_text_has_its_conversion() -> None:
    kinds = {name: str(kind) for name, kind in Settings.__annotations__.items()}
    assert set(kinds) == set(Settings.__slots__)
    assert {name for name, kind in kinds.items() if "int" in kind} == set(CONVERTERS)
    assert {name for name, kind in kinds.items() if "list" in kind} == set(LISTS)


@given(
    st.fixed_dictionaries(
        {name: st.lists(kind) if name in LISTS else st.none() | kind for name, kind in FIELDS.items()}
    )
)
def test_settings_survive_their_conversion_to_words(given_values: dict[str, object]) -> None:
    words = Settings(**given_values).words()
    found = Settings.from_words([os.fsdecode(os.fsencode(word)) for word in words])
    assert {name: getattr(found, name) for name in Settings.__slots__} == given_values


@pytest.mark.parametrize("raw", [b"", b"abc", b"\xff\xc3\xa9", "\u00e9".encode()])
def test_a_word_of_the_command_line_is_bytes_again(raw: bytes) -> None:
    assert octets(os.fsdecode(raw)) == raw


# -- account

NOBODY = pwd.getpwnam("nobody")


@pytest.mark.parametrize(
    ("user", "group", "expected"),
    [
        (None, None, (None, None, [])),
        (None, "12", (None, 12, [12])),
        ("0", None, (None, None, [])),
        ("000", "7", (None, 7, [7])),
        ("54321", "54322", (54321, 54322, [54322])),
        ("nobody", None, (NOBODY.pw_uid, NOBODY.pw_gid, os.getgrouplist("nobody", NOBODY.pw_gid))),
        (str(NOBODY.pw_uid), None, (NOBODY.pw_uid, NOBODY.pw_gid, [NOBODY.pw_gid])),
        ("nobody", "0", (NOBODY.pw_uid, 0, [0])),
    ],
)
def test_an_account_has_its_ids_and_groups(user: str | None, group: str | None, expected: tuple[object, ...]) -> None:
    found = account(user, group)
    assert (found.uid, found.gid, found.groups) == expected


@pytest.mark.parametrize("user", ["", " ", "-1", "+5", "12x", "no-such-user", "4294967295", "1" * 30, "\u0665", "a\0b"])
def test_a_user_without_an_account_is_refused(user: str) -> None:
    with pytest.raises(ValueError, match=r"-u needs a user|no such id"):
        account(user, None)


# -- chain

PATHS = {  # $PATH -> where `x` is looked for
    b"/a:/b": [b"/a/x", b"/b/x"],
    b"": [b"./x"],
    b":/a": [b"./x", b"/a/x"],
    b"/a:": [b"/a/x", b"./x"],
    b"/a::/b": [b"/a/x", b"./x", b"/b/x"],
    b"/a/": [b"/a//x"],
}


@pytest.mark.parametrize("path", PATHS)
def test_where_a_program_is_looked_for(path: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fsdecode(path))
    assert chain.candidates(b"x") == PATHS[path]


def test_a_program_with_a_slash_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chain.candidates(b"a/x") == [b"a/x"]
    assert chain.candidates(b"/") == [b"/"]
    monkeypatch.delenv("PATH")
    assert chain.candidates(b"x") == [b"/bin/x", b"/usr/bin/x"]


# -- listen

LITERALS = {
    "1.2.3.4": "1.2.3.4",
    "[1.2.3.4]": "1.2.3.4",
    "1[.2.]3.4": "1.2.3.4",
    "01.002.0003.4": "1.2.3.4",
    "1..3.4": "1.0.3.4",
    "1.2.3.4.": "1.2.3.4",
    "1.2.3.4.5": "1.2.3.4",
    "1.2.3.4.5.6.7.8": "1.2.3.4",
    "255.255.255.255": "255.255.255.255",
}


@pytest.mark.parametrize("host", LITERALS)
def test_an_ipv4_literal_is_parsed(host: str) -> None:
    assert listen.address(host) == LITERALS[host]


@pytest.mark.parametrize(
    "host", ["1", "1.2.3", "1.2.3.", ".", "...", "256.0.0.1", "1.2.3.999", "[]", "[", "1.2.3." + "9" * 5000]
)
def test_a_host_that_is_no_ipv4_literal_is_refused(host: str) -> None:
    with pytest.raises(operands.Unable, match="no IP address for "):
        listen.address(host)


@pytest.mark.parametrize(
    ("text", "port"), [("0", 0), ("", 0), ("25", 25), ("00025", 25), ("65535", 65535), ("smtp", 25)]
)
def test_a_port_is_a_number_or_the_name_of_a_service(text: str, port: int) -> None:
    assert operands.port_number(text) == port


def test_a_program_that_its_package_does_not_record_is_found_beside_tcpserver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's packages have no RECORD, and a link in /usr/bin leads to their scripts."""
    program = install_script(tmp_path / "lib", "obey", "")
    (tmp_path / "lib/obey-1.dist-info/RECORD").unlink()
    (tmp_path / "tcpserver").symlink_to(program.with_name("tcpserver"))
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    assert loadable.by_name("obey") is None
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "tcpserver")])
    assert loadable.by_name("obey") == f"obey:main:{program}"
