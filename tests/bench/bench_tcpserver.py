"""tcpserver compared with Debian's, in one run: `python tests/bench/bench_tcpserver.py [ROUNDS [CONNECTIONS]]`.

20 clients at once on loopback, medians of the rounds. The CPU per connection is that of the whole process tree without
the start-up.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from figures import Row, arguments, installed, pair, show
from load import measure

THEIRS = "/usr/bin/tcpserver"
OURS = str(Path(sys.executable).parent / "tcpserver")
TCPRULES = str(Path(sys.executable).parent / "tcprules")
QUICK = ["-1", "-q", "-c", "100", "-R", "-l", "0"]
WHERE = ["127.0.0.1", "0"]
C_PROGRAM = "/bin/true"
ENTRY_POINTS = "[console_scripts]\nnoop = noop:main\n[tcpserver.programs]\nnoop = noop:main\n"


def rules(folder: str, text: str, name: str) -> str:
    """Compile rules, and return the path of the cdb."""
    path = f"{folder}/{name}.cdb"
    subprocess.run([TCPRULES, path, f"{path}.tmp"], input=text.encode(), check=True)
    return path


def many_rules(folder: str) -> str:
    """Return 20,000 rules that allow loopback."""
    lines = [f'10.{i // 250}.{i % 250}.:allow,RELAYCLIENT=""' for i in range(20_000)]
    return rules(folder, "\n".join([*lines, '127.:allow,RELAYCLIENT=""', ""]), "many")


def install_noop(folder: str) -> None:
    """Install a console script whose main does nothing, and which tcpserver loads, as a package on PYTHONPATH."""
    os.makedirs(f"{folder}/noop-1.dist-info")
    os.makedirs(f"{folder}/bin")
    Path(f"{folder}/noop.py").write_text("def main():\n    pass\n\nserve_client = main\n")
    Path(f"{folder}/noop-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: noop\nVersion: 1\n")
    Path(f"{folder}/noop-1.dist-info/entry_points.txt").write_text(ENTRY_POINTS)
    Path(f"{folder}/noop-1.dist-info/RECORD").write_text("bin/noop,,\n")
    script = Path(f"{folder}/bin/noop")
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom noop import main\nsys.exit(main())\n")
    script.chmod(0o755)
    os.environ["PYTHONPATH"] = folder


def scenarios(folder: str) -> dict[str, tuple[list[str], list[str], str, str]]:
    """Return name -> their command, ours, the aims for the ratios of rate and CPU."""
    many, deny = many_rules(folder), rules(folder, "127.:deny\n:allow\n", "deny")
    install_noop(folder)
    plain = [*QUICK, "-H", *WHERE, C_PROGRAM]
    ruled = [*QUICK, "-H", "-x", many, *WHERE, C_PROGRAM]
    denied = [*QUICK, "-H", "-x", deny, *WHERE, C_PROGRAM]
    named = [*QUICK, "-h", *WHERE, C_PROGRAM]
    called = [*QUICK, "-H", *WHERE, f"{folder}/bin/noop"]
    own_process = [*QUICK, "-H", "--reuse", "1", *WHERE, f"{folder}/bin/noop"]
    return {
        "C program spawned": ([THEIRS, *plain], [OURS, *plain], ">= 1.0 x", "<= 0.9 x"),
        "the same, -x 20,000 rules": ([THEIRS, *ruled], [OURS, *ruled], ">= 1.0 x", "<= 0.9 x"),
        "refused by a rule": ([THEIRS, *denied], [OURS, *denied], ">= 4.0 x", "<= 1.0 x"),
        "loaded trivial program (theirs: C)": ([THEIRS, *plain], [OURS, *called], ">= 1.3 x", "<= 0.8 x"),
        "the same, --reuse 1": ([THEIRS, *plain], [OURS, *own_process], ">= 1.3 x", "<= 0.8 x"),
        "C program, -h from /etc/hosts (theirs: -H)": ([THEIRS, *plain], [OURS, *named], "-", "<= 2.5 x"),
    }


def rows(rounds: int, connections: int) -> list[Row]:
    peer = installed("C tcpserver", THEIRS, "ucspi-tcp")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (theirs, ours, rate, cost) in scenarios(folder).items():
            servers = {"ours": ours} if peer.missing else {"theirs": theirs, "ours": ours}
            figures = measure(servers, rounds, connections)
            found += pair(f"tcpserver: {name}", figures["ours"], figures.get("theirs"), peer, rate, cost)
    return found


def main() -> None:
    rounds, connections = arguments(5, 3000)
    show(rows(rounds, connections), f"medians of {rounds} rounds, {connections} connections each, 20 at once")


if __name__ == "__main__":
    main()
