"""tcpserver's command line: what it refuses and how, beside 0.88; and what we refuse although 0.88 accepts it."""

import os
import socket
import subprocess
from collections.abc import Sequence

import pytest

from tcpserver import cli
from tcpserver.address import operands
from tests.kit import forked
from tests.kit.server import ENVIRON, PATIENCE, Server, listens, read_all, refusal, until
from tests.kit.support import free_port, peer, script

C = "/usr/bin/tcpserver"
SS = "/usr/bin/ss"
USAGE = (
    b"tcpserver: usage: tcpserver [ -1UXpPhHrRoOdDqQv ] [ -c limit ] [ -x rules.cdb ] [ -B banner ] [ -g gid ]"
    b" [ -u uid ] [ -b backlog ] [ -l localname ] [ -t timeout ] host port program\n"
)
SAME = {  # words -> the message of both programs, and the exit status
    "nothing": ([], USAGE, 100),
    "host alone": (["0"], USAGE, 100),
    "no program": (["0", "0"], USAGE, 100),
    "no program, named port": (["0", "smtp"], USAGE, 100),
    "empty port, no program": (["0", ""], USAGE, 100),
    "options without operands": (["-vRHl0"], USAGE, 100),
    "help": (["-h"], USAGE, 100),
    "a long word": (["--help"], USAGE, 100),
    "another long word": (["--version"], USAGE, 100),
    "a long word with a value": (["--help=x"], USAGE, 100),
    "end of options": (["--"], USAGE, 100),
    "end of options, host": (["--", "0"], USAGE, 100),
    "a long word after options": (["-v", "--help"], USAGE, 100),
    "a lone dash is an operand": (["-"], USAGE, 100),
    "a lone dash is a host": (["-", "0"], USAGE, 100),
    "an option after the host is an operand": (
        ["0", "-z"],
        b"tcpserver: fatal: unable to figure out port number for -z\n",
        111,
    ),
    "illegal": (["-z"], b"tcpserver: illegal option -- z\n" + USAGE, 100),
    "illegal, operands": (["-z", "0", "0", "true"], b"tcpserver: illegal option -- z\n" + USAGE, 100),
    "illegal in a cluster": (["-vzq"], b"tcpserver: illegal option -- z\n" + USAGE, 100),
    "illegal after -q": (["-q", "-z"], b"tcpserver: illegal option -- z\n" + USAGE, 100),
    "a dash in a cluster": (["-v-h", "0"], b"tcpserver: illegal option -- -\n" + USAGE, 100),
    "a colon": (["-:"], b"tcpserver: illegal option -- :\n" + USAGE, 100),
    "a number": (["-4", "0"], b"tcpserver: illegal option -- 4\n" + USAGE, 100),
    "a byte that is no character": ([b"-\xff", "0"], b"tcpserver: illegal option -- \xff\n" + USAGE, 100),
    "a character of two bytes": (["-\u00e9", "0"], b"tcpserver: illegal option -- \xc3\n" + USAGE, 100),
    **{
        f"-{letter} lacks its argument": (
            [f"-v{letter}"],
            f"tcpserver: option requires an argument -- {letter}\n".encode() + USAGE,
            100,
        )
        for letter in "cxBgublt"
    },
    "missing argument after -q": (["-q", "-c"], b"tcpserver: option requires an argument -- c\n" + USAGE, 100),
    "an empty argument is one": (["-l", ""], USAGE, 100),
    "the trap: -RHl0X is -l 0X": (["-RHl0X"], USAGE, 100),
    "an argument that looks like an option": (["-l", "-z", "0"], USAGE, 100),
    "an argument with an equals sign": (["-l=z", "0"], USAGE, 100),
    "bad port before missing program": (
        ["0", "25abc"],
        b"tcpserver: fatal: unable to figure out port number for 25abc\n",
        111,
    ),
    "signed port": (["0", "+25", "true"], b"tcpserver: fatal: unable to figure out port number for +25\n", 111),
    "port with a blank": (["0", " 25", "true"], b"tcpserver: fatal: unable to figure out port number for  25\n", 111),
    "digits of another script": (
        ["0", "\u0662\u0665", "true"],
        "tcpserver: fatal: unable to figure out port number for \u0662\u0665\n".encode(),
        111,
    ),
    "unknown service": (
        ["0", "nosuch", "true"],
        b"tcpserver: fatal: unable to figure out port number for nosuch\n",
        111,
    ),
    "a service of UDP alone": (
        ["0", "tftp", "true"],
        b"tcpserver: fatal: unable to figure out port number for tftp\n",
        111,
    ),
    "bad port before bad host": (
        ["127.1", "nosuch", "true"],
        b"tcpserver: fatal: unable to figure out port number for nosuch\n",
        111,
    ),
    "three octets": (["127.0.0", "0", "true"], b"tcpserver: fatal: no IP address for 127.0.0\n", 111),
    "two octets": (["127.1", "0", "true"], b"tcpserver: fatal: no IP address for 127.1\n", 111),
    "a dot": ([".", "0", "true"], b"tcpserver: fatal: no IP address for .\n", 111),
    "one octet": (["1", "0", "true"], b"tcpserver: fatal: no IP address for 1\n", 111),
    "nobody's address": (
        ["203.0.113.9", "0", "true"],
        b"tcpserver: fatal: unable to bind: address not available\n",
        111,
    ),
    "a service": (["203.0.113.9", "smtp", "true"], b"tcpserver: fatal: unable to bind: address not available\n", 111),
    "several addresses, the first counts": (
        ["203.0.113.9.127.0.0.1", "0", "true"],
        b"tcpserver: fatal: unable to bind: address not available\n",
        111,
    ),
    "one address and a piece": (
        ["203.0.113.9.127", "0", "true"],
        b"tcpserver: fatal: unable to bind: address not available\n",
        111,
    ),
    "quiet usage": (["-q"], b"", 100),
    "quiet usage, host": (["-q", "0"], b"", 100),
    "quiet bad port": (["-q", "0", "nosuch", "true"], b"", 111),
    "quiet bad host": (["-q", "127.1", "0", "true"], b"", 111),
    "quiet bind": (["-q", "203.0.113.9", "0", "true"], b"", 111),
    "not quiet after all": (["-qQ", "127.1", "0", "true"], b"tcpserver: fatal: no IP address for 127.1\n", 111),
    "quiet after all": (["-vq", "127.1", "0", "true"], b"", 111),
}


def refusal_by_main(words: Sequence[str | bytes], environ: dict[str, str] | None = None) -> tuple[bytes, int]:
    """Return message and exit status of a refused command line: the console script's own main, without its start-up."""
    given = {os.fsencode(name): os.fsencode(value) for name, value in (ENVIRON | (environ or {})).items()}
    done = forked.run(cli.main, ["/usr/bin/tcpserver", *words], environ=given)
    assert done.stdout == b""
    return done.stderr, done.exit


@pytest.mark.parametrize("case", SAME)
def test_a_command_line_is_refused_as_by_the_original(case: str) -> None:
    words, message, status = SAME[case]
    assert refusal_by_main(words) == (message, status)


@pytest.mark.peer
@pytest.mark.parametrize("case", SAME)
def test_the_original_refuses_it_in_the_same_way(case: str) -> None:
    words, message, status = SAME[case]
    assert refusal(words, peer(C)) == (message, status)


STRICTER = {  # where 0.88 guesses, wraps or stays root
    "letters for -c": (["-c", "abc"], b"-c needs a whole number from 1 to 1000000: abc", 100),
    "no children at all": (["-c", "0"], b"-c needs a whole number from 1 to 1000000: 0", 100),
    "a number and more": (["-c", "12x"], b"-c needs a whole number from 1 to 1000000: 12x", 100),
    "nothing for -c": (["-c", ""], b"-c needs a whole number from 1 to 1000000: ", 100),
    "a sign": (["-c", "+5"], b"-c needs a whole number from 1 to 1000000: +5", 100),
    "digits of another script": (["-c", "\u0665"], "-c needs a whole number from 1 to 1000000: \u0665".encode(), 100),
    "wraps in 64 bits": (
        ["-c", "18446744073709551617"],
        b"-c needs a whole number from 1 to 1000000: 18446744073709551617",
        100,
    ),
    "a number behind many zeros": (
        ["-c", "0" * 30 + "9999999"],
        b"-c needs a whole number from 1 to 1000000: " + b"0" * 30 + b"9999999",
        100,
    ),
    "no client for --reuse": (["--reuse", "0"], b"--reuse needs a whole number from 1 to 2147483647: 0", 100),
    "a word for --reuse": (["--reuse", "x"], b"--reuse needs a whole number from 1 to 2147483647: x", 100),
    "letters for -b": (["-b", "x"], b"-b needs a whole number from 1 to 2147483647: x", 100),
    "letters for -t": (["-t", "12x"], b"-t needs a whole number from 0 to 2147483647: 12x", 100),
    "letters for -C": (["-C", "x:hello"], b"-C needs a whole number from 1 to 1000000: x", 100),
    "a rate without a slash": (["--rate", "20"], b"--rate needs clients/seconds, such as 20/60: 20", 100),
    "a rate of letters": (["--rate", "a/b"], b"--rate needs a whole number from 1 to 1000000: a", 100),
    "letters for --drain": (["--drain", "x"], b"--drain needs a whole number from 0 to 2000000: x", 100),
    "letters for --prepare-timeout": (
        ["--prepare-timeout", "0"],
        b"--prepare-timeout needs a whole number from 1 to 2000000: 0",
        100,
    ),
    "more seconds than poll can wait": (
        ["--proxy-timeout", "2147484"],
        b"--proxy-timeout needs a whole number from 1 to 2000000: 2147484",
        100,
    ),
    "port over 65535": (["0", "65536", "true"], b"port is over 65535: 65536", 100),
    "port of many digits": (["0", "9" * 5000, "true"], b"port is over 65535: " + b"9" * 5000, 100),
    "octet over 255": (["383.0.0.1", "0", "true"], b"no IP address for 383.0.0.1", 111),
    "octet of many digits": (["1.2.3." + "9" * 5000, "0", "true"], b"no IP address for 1.2.3." + b"9" * 5000, 111),
    "half an IPv6 address": (["[::1", "0", "true"], b"no IP address for [::1", 111),
    "no IPv6 address": ([":::", "0", "true"], b"no IP address for :::", 111),
    "nobody": (["-u", "no-such-user"], b"-u needs a user: no-such-user", 100),
    "an empty user": (["-u", ""], b"-u needs a user: it is empty", 100),
    "an empty group": (["-g", ""], b"-g needs a group: it is empty", 100),
    "no such group": (["-g", "no-such-group"], b"-g needs a group: no-such-group", 100),
    "a user and more": (["-u", "12x"], b"-u needs a user: 12x", 100),
    "a uid without entry or group": (["-u", "54321"], b"-u 54321 has no entry in passwd: say its group with -g", 100),
    "minus one": (["-u", "4294967295"], b"no such id: 4294967295", 100),
    "a uid behind many zeros": (["-u", "0" * 30 + "4294967295"], b"no such id: " + b"0" * 30 + b"4294967295", 100),
    "-U without both": (["-U"], b"-U needs $UID and $GID, both numbers", 100),
    "no such script": (
        ["--preload", "no-such-script"],
        b"unable to preload no-such-script: no console script of that name",
        100,
    ),
}


@pytest.mark.parametrize("case", STRICTER)
def test_what_the_original_guesses_is_refused_with_one_line(case: str) -> None:
    words, message, status = STRICTER[case]
    operands = [] if words[-1] == "true" else ["0", "0", "true"]
    assert refusal_by_main(words + operands) == (b"tcpserver: fatal: " + message + b"\n", status)


@pytest.mark.parametrize(
    ("given", "missing"), [({"UID": "1"}, "GID"), ({"GID": "1"}, "UID"), ({"UID": "", "GID": ""}, "both")]
)
def test_u_from_the_environment_needs_both_variables(given: dict[str, str], missing: str) -> None:
    message, status = refusal_by_main(["-U", "127.0.0.1", "0", "true"], given)
    assert (message, status) == (b"tcpserver: fatal: -U needs $UID and $GID, both numbers\n", 100)


@pytest.mark.parametrize("words", [["--rate"], ["--preload"], ["--drain"], ["--log-format", "xml"], ["--rates", "1/1"]])
def test_a_long_option_misused_gets_the_usage_or_one_line(words: list[str]) -> None:
    message, status = refusal_by_main(words)
    assert message.count(b"\n") == 1
    assert status == 100


SERVED = [  # hosts and ports on which both listen
    ["127.0.0.1", "0"],
    ["[127.0.0.1]", "0"],
    ["127.0.0.1", ""],
    ["127.0.0.1.5.6.7.8", "0"],
    ["127.0.0.1.5", "0"],
    ["127..0.1", "0"],
    ["127.0.0.1.", "0"],
    ["0", "0"],
    ["", "0"],
    ["-RHl0", "-c", "007", "127.0.0.1", "00"],
    ["-vQq", "--", "127.0.0.1", "0"],
]


@pytest.mark.peer
@pytest.mark.parametrize("words", SERVED, ids=" ".join)
def test_both_programs_listen_on_the_same_addresses(words: list[str]) -> None:
    options = ["-RHl0"]
    with Server(options + words + ["echo", "here"]) as ours, Server(options + words + ["echo", "here"], peer(C)) as c:
        assert ours.ask() == c.ask() == b"here\n"


@pytest.mark.parametrize(
    ("first", "second"), [("x", "y"), ("", "z"), ("z", "")], ids=["both", "empty first", "empty last"]
)
def test_of_an_option_given_twice_the_last_one_counts(first: str, second: str) -> None:
    with Server(
        ["-RH", "-l", first, f"-l{second}" if second else "-l", *([] if second else [""]), "127.0.0.1", "0", "env"]
    ) as server:
        assert f"TCPLOCALHOST={second}\n".encode() in server.ask()


def test_the_letters_after_l_are_its_argument() -> None:
    with Server(["-vRHl0X", "127.0.0.1", "0", "env"]) as server:
        assert b"TCPLOCALHOST=0X\n" in server.ask()


def test_options_of_the_program_are_left_to_it() -> None:
    with Server(["-RHl0", "127.0.0.1", "0", "printf", "%s|", "-v", "--", "--help", ""]) as server:
        assert server.ask() == b"-v|--|--help||"


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)], ids=str)
def test_descriptors_that_are_closed_at_start_are_opened_on_dev_null(closed: Sequence[int]) -> None:
    """Else the listening socket or the rules file would be a program's standard error."""
    port = free_port()
    look = "for number in 0 1 2; do readlink /proc/$$/fd/$number; done; echo /proc/self/fd/*"
    close = " ".join(f"{number}>&-" for number in closed)
    server = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$@" {close}', "sh"]
        + [script("tcpserver"), "-1RHl0", "127.0.0.1", str(port), "/bin/sh", "-c", look],
        env=ENVIRON,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        until(lambda: listens(port))
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
            found = read_all(client).decode().split()
        assert found[0] == found[1]
        assert found[0].startswith("socket:")
        assert found[2] == "/dev/null" if 2 in closed else found[2].startswith("pipe:")
        assert found[3:] == [f"/proc/self/fd/{number}" for number in range(4)]  # 3 is the open directory
    finally:
        server.kill()
        assert b"Traceback" not in server.communicate()[1]


@pytest.mark.skipif(not os.path.exists(SS), reason="no ss here")
@pytest.mark.parametrize(("options", "backlog"), [([], b"20"), (["-b", "7"], b"7"), (["-b7", "-b333"], b"333")])
def test_the_backlog_is_what_b_says(options: list[str], backlog: bytes) -> None:
    with Server(["-RHl0", *options, "127.0.0.1", "0", "true"]) as server:
        found = subprocess.run([SS, "-ltnH", f"sport = :{server.port}"], capture_output=True, check=True).stdout
        assert found.split()[2] == backlog


@pytest.mark.parametrize("service", ["smtp", "smtps", "submission", "pop3", "pop3s"])
def test_the_mail_services_have_their_ports_where_etc_services_is_missing(service: str) -> None:
    ports = {"smtp": 25, "smtps": 465, "submission": 587, "pop3": 110, "pop3s": 995}
    assert ports == operands.SERVICES
    assert os.path.exists("/etc/services") or operands.port_number(service) == ports[service]
