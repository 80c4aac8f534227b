"""Random rules files and clients, given to the C programs and to ours. Reports differences that are not intended."""

import random
import re
import subprocess
from pathlib import Path

from tcprules.cli import tcprules, tcprulescheck
from tests.kit import forked

C_TCPRULES = "/usr/bin/tcprules"
C_TCPRULESCHECK = "/usr/bin/tcprulescheck"

# Lines that 0.88 treats differently by design. A file with such a line is not compared; all other differences count.
BY_DESIGN = {
    "a network, or what looks like one": re.compile(rb"(?:[^:=]*@)?[0-9A-Fa-f.]+/[0-9.]*:(?:allow|deny)"),
    "an IPv6 address": re.compile(rb"(?:[^:]*@)?[0-9A-Fa-f:./]*:[0-9A-Fa-f:./]*:(?:allow|deny)"),
}
# 0.88 reads only what a lookup needs, so it may answer from a broken cdb; ours checks all tables.
REFUSED = b"unable to read r.cdb: protocol error\n"

OCTETS = [b"0", b"1", b"2", b"10", b"127", b"255", b"256", b"007", b"999", b""]
NUMBERS = [*OCTETS, *OCTETS, b"18446744073709551616", b"18446744073709551615", b"1\0z"]
HOSTS = [b"a.example.com", b"B.example.com", b".example.com", b".com", b"com", b"", b"a-b.c", b".", b"a."]
INFOS = [b"joe", b"", b"a@b", b"j-e", b"=x", b"a/b", b"/"]
ODD = [b"!", b" 1.2.3.4", b"[2001]", b"\xff\xfe", b"a/b", b"-", b"1.2.3-4.5-6", b"1.-2.3", b"\xef\xbb\xbf1.2.3.4", b"#"]
NAMES = [b"A", b"RELAYCLIENT", b"", b",A", b" B", b"A,B", b'"A"', b"a+b", b"\0"]
VALUES = [b"", b"b", b"c d", b"@host", b"a=b", b"x\0y", b"x\0D", b"\0+C=d", b"\xe9", b"b\\", b":,#"]
QUOTES = b'"' * 60 + b"'/|x=, \t\xff\0"
ANY = [
    b":",
    b",",
    b"=",
    b'"',
    b"-",
    b".",
    b"@",
    b"#",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b"\xff",
    b"deny",
    b"allow",
    b"1",
    b"+",
]


def address(rng: random.Random) -> bytes:
    pick = rng.choice
    kind = rng.randrange(10)
    if kind < 3:
        return b".".join(pick(OCTETS) for _ in range(rng.randrange(1, 5))) + pick([b"", b"."])
    if kind < 5:
        parts = [pick(OCTETS) for _ in range(rng.randrange(1, 5))]
        parts[rng.randrange(len(parts))] = pick(NUMBERS) + b"-" + pick(NUMBERS)
        return b".".join(parts) + pick([b"", b"."])
    if kind < 7:
        return b"=" + pick(HOSTS)
    if kind == 7:
        return pick(INFOS) + b"@" + pick([b"=" + pick(HOSTS), b"1.2.3.4", b"10.", b"1.2.3.4-6"])
    return pick(ODD) if kind == 8 else b""


def rule(rng: random.Random) -> bytes:
    line = address(rng) + b":" + rng.choice([b"allow", b"deny"])
    for _ in range(rng.choice([0, 0, 1, 1, 2, 5])):
        quote = bytes([rng.choice(QUOTES)])
        line += b",%b=%b%b%b" % (rng.choice(NAMES), quote, rng.choice(VALUES), quote)
    return line + rng.choice([b""] * 90 + [b" ", b"\t \t", b"\r"])


def damaged(rng: random.Random, line: bytes) -> bytes:
    at = rng.randrange(len(line) + 1)
    return line[:at] + rng.choice(ANY) + line[at + rng.randrange(3) :]


def rules_file(rng: random.Random) -> bytes:
    lines = []
    for _ in range(rng.choice([0, 1, 2, 5, 12, 12, 40])):
        kind = rng.randrange(30)
        if kind == 0:
            lines.append(rng.choice([b"# comment: x", b"", b" # x", b"1.2.3.4 deny", b"\r", b"\0", b"#" * 9000]))
        elif kind == 1:
            lines.append(damaged(rng, rule(rng)))
        elif kind == 2 and not rng.randrange(4):
            lines.append(b"".join(rng.choice(ANY) for _ in range(rng.randrange(12))))
        else:
            lines.append(rule(rng))
    return b"\n".join(lines) + rng.choice([b"\n", b"\n", b""])


def by_design(rules: bytes) -> str | None:
    for reason, pattern in BY_DESIGN.items():
        if any(pattern.match(line) for line in rules.split(b"\n")):
            return reason
    return None


def client(rng: random.Random, rules: bytes) -> dict[bytes, bytes]:
    """Return UCSPI variables that are close to what the rules name."""
    named = [line.partition(b":")[0] for line in rules.split(b"\n")] + [b"1.2.3.4", b"10.1.2.3", b"::1", b"2001:db8::1"]
    infos, places = [], []
    for name in named:
        info, at, place = name.partition(b"@")
        infos.append(info if at else b"joe")
        places.append((place if at else info).replace(b"-", b"."))
    hosts = [place.lstrip(b"=") for place in places if place[:1] == b"="] + HOSTS
    values = {
        b"TCPREMOTEIP": (b"", b"1", b"2.", b".3")[rng.randrange(4)].join([rng.choice(places), b""]),
        b"TCPREMOTEHOST": rng.choice([b"", b"x", b"x.y"]) + rng.choice(hosts),
        b"TCPREMOTEINFO": rng.choice(infos + INFOS),
    }
    kept = {name: value.replace(b"\0", b"") for name, value in values.items() if rng.randrange(3)}
    if rng.randrange(10):
        kept[b"TCPREMOTEIP"] = values[b"TCPREMOTEIP"].replace(b"\0", b"")
    return kept


def broken(rng: random.Random, content: bytes) -> bytes:
    if not rng.randrange(3):
        return content[: rng.randrange(len(content))]
    data = bytearray(content)
    for _ in range(rng.choice([1, 2, 8])):
        data[rng.randrange(len(data))] = rng.choice([0, 1, 8, 255, rng.randrange(256)])
    return bytes(data)


def original(program: str, words: list[str], stdin: bytes, environ: dict[bytes, bytes], cwd: Path) -> forked.Result:
    done = subprocess.run([program, *words], input=stdin, env=environ, cwd=cwd, capture_output=True, check=False)
    return forked.Result(done.stdout, done.stderr, done.returncode)


def compare_files(rules: bytes, directory: Path) -> str | None:
    """Compile with both. Return a description of the differences, or None. Our cdb, if any, stays in r.cdb."""
    ours, theirs = directory / "r.cdb", directory / "c.cdb"
    for path in (ours, theirs):
        path.unlink(missing_ok=True)
    wanted = original(C_TCPRULES, ["c.cdb", "c.tmp"], rules, {}, directory)
    got = forked.run(tcprules, ["tcprules", "r.cdb", "r.tmp"], rules, {}, directory)
    got = got._replace(stderr=forked.without_warnings(got.stderr))
    contents = [path.read_bytes() if path.exists() else None for path in (theirs, ours)]
    if wanted != got or contents[0] != contents[1]:
        return f"rules {rules!r}\n 0.88 {wanted}, {contents[0]!r}\n ours {got}, {contents[1]!r}"
    return None


def compare_check(environ: dict[bytes, bytes], directory: Path, is_broken: bool = False) -> str | None:
    """Look up a client in r.cdb with both. Return a description of the differences, or None."""
    wanted = original(C_TCPRULESCHECK, ["r.cdb"], b"", environ, directory)
    got = forked.run(tcprulescheck, ["tcprulescheck", "r.cdb"], b"", environ, directory)
    if wanted == got or (is_broken and got == (b"", b"tcprulescheck: fatal: " + REFUSED, 111)):
        return None
    return f"client {environ!r}\n cdb {(directory / 'r.cdb').read_bytes()!r}\n 0.88 {wanted}\n ours {got}"
