"""Random command lines, environments and rules, given to Debian's tcpserver and to ours: they must agree to the byte.

    .venv/bin/python tests/fuzz/fuzz_tcpserver.py [SEED [CASES]]

Intended differences are left out: numbers, -u, -g, -U, and variables without a name. Exits 1 on a mismatch.
"""

import random
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from tcpserver import cli
from tests.kit import forked
from tests.kit.server import Server, compiled, refusal
from tests.kit.support import script

ORIGINAL = "/usr/bin/tcpserver"
FLAGS, WITH_ARGUMENT = "dDvqQhHrR1XpPoO", "xtlbBc"
WORDS = ["--", "-", "x", "-v-q", "-l=", "-l", "-z", "-kv", "-G", "-4", "-V", "-:", "-=", "-?", "- ", "-\u00e9"]
ENDS = [[], ["127.1"], ["127.1", "0"], ["127.1", "0", "p"], ["127.1", "nosuch", "p"], ["127.1", "25x"]]
NAMES = ["A", "B", "C", "PROTO", "TCPLOCALIP", "TCPLOCALHOST", "TCPREMOTEIP", "TCPREMOTEPORT", "TCPREMOTEHOST"]
NAMES += ["TCPREMOTEINFO", "RELAYCLIENT", "LC_CTYPE", "LANG", "LC_ALL", "PATH", "a b", "\u00c9", "X.Y", "_"]
VALUES = ["", "1", "a b", "\u00e9", "=x", "C", "/bin", "\x7f", "a:b", "%s"]
PATHS = ["/bin:/usr/bin", "/usr/bin", ":/nosuch:/bin", "/bin/cat:/bin"]
CHOICES: list[list[list[str]]] = [
    [["-l0"], ["-l", ""], ["-lhost.name"]],
    [[], ["-D"], ["-d"]],
    [[], ["-o"], ["-O"]],
    [[], ["-Bhello\r\n"], ["-B", ""]],
    [[], ["-X"], ["-q"], ["-v"], ["-c1"]],
]
SOURCES = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


def option() -> list[str]:
    if random.random() < 0.15:
        return [random.choice(WORDS)]
    cluster = "-" + "".join(random.choice(FLAGS) for _ in range(random.randint(1, 4)))
    if random.random() < 0.6:
        return [cluster]
    number = str(random.randint(1, 99))  # each of these options has a numeric argument
    cluster += random.choice(WITH_ARGUMENT)
    return [cluster + number] if random.random() < 0.5 else [cluster, number]


def command_line() -> bool:
    """Whether a command line that cannot be served fails with the same message and status."""
    words = [word for _ in range(random.randint(0, 4)) for word in option()] + random.choice(ENDS)
    original = refusal(words, ORIGINAL)
    done = forked.run(cli.main, [ORIGINAL, *words], environ={b"PATH": b"/bin"})
    return same((done.stderr, done.exit), original, words)


def connection(directory: Path) -> bool:
    """Whether programs get the same environment, in the same order, and the same banner."""
    environ = {name: random.choice(VALUES) for name in random.sample(NAMES, random.randint(0, 12))}
    environ["PATH"] = random.choice(PATHS)
    sets = "".join(f',{random.choice(NAMES)}="{random.choice(VALUES)}"' for _ in range(random.randint(0, 6)))
    cdb = compiled(directory / "cdb", f'{SOURCES[0]}:allow{sets}\n{SOURCES[1]}:deny{sets}\n:allow,D="1"\n')
    words = ["-RH", *[word for choice in CHOICES for word in random.choice(choice)], "-x", str(cdb)]
    words += ["127.0.0.1", "0", "cat", "/proc/self/environ"]
    outputs = []
    for program in (script("tcpserver"), ORIGINAL):
        with Server(words, program, environ=environ) as server:
            found = [server.ask(source=source) for source in SOURCES]
        outputs.append([re.sub(rb"(TCP(?:LOCAL|REMOTE)PORT)=\d{4,5}\0", rb"\1=N\0", output) for output in found])
    return same(*outputs, (words, environ, sets))


def same(ours: object, original: object, case: object) -> bool:
    if ours != original:
        print(f"{case}\n  ours     {ours}\n  original {original}")
    return ours == original


def main() -> None:
    random.seed(int(sys.argv[1]) if sys.argv[1:] else None)
    cases = int(sys.argv[2]) if sys.argv[2:] else 500
    with TemporaryDirectory() as directory:
        wrong = sum(not command_line() for _ in range(cases))
        wrong += sum(not connection(Path(directory)) for _ in range(cases // 10))
    print(f"{cases} command lines, {cases // 10} servers with {len(SOURCES)} clients each: {wrong} differ")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
