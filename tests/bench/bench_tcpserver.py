"""tcpserver compared with Debian's, in one run: `python tests/bench/bench_tcpserver.py [ROUNDS [CONNECTIONS]]`.

20 clients at once on loopback, medians of the rounds. The CPU per connection is that of the whole process tree without
the start-up. Prints the ratios of ours to theirs, and their bounds.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from load import measure

THEIRS = "/usr/bin/tcpserver"
OURS = str(Path(sys.executable).parent / "tcpserver")
TCPRULES = str(Path(sys.executable).parent / "tcprules")
QUICK = ["-1", "-q", "-c", "100", "-R", "-l", "0"]
WHERE = ["127.0.0.1", "0"]
C_PROGRAM = "/bin/true"
NOOP = "noop"  # a console script that install_noop creates


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
    """Install a console script whose main does nothing, as a package on PYTHONPATH."""
    os.makedirs(f"{folder}/noop-1.dist-info")
    os.makedirs(f"{folder}/bin")
    Path(f"{folder}/noop.py").write_text("def main():\n    pass\n\nserve_client = main\n")
    Path(f"{folder}/noop-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: noop\nVersion: 1\n")
    Path(f"{folder}/noop-1.dist-info/entry_points.txt").write_text("[console_scripts]\nnoop = noop:main\n")
    Path(f"{folder}/noop-1.dist-info/RECORD").write_text("bin/noop,,\n")
    script = Path(f"{folder}/bin/noop")
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom noop import main\nsys.exit(main())\n")
    script.chmod(0o755)
    os.environ["PYTHONPATH"] = folder


def scenarios(folder: str) -> dict[str, tuple[list[str], list[str], float, float]]:
    """Return name -> their command, ours, the upper bound of the CPU ratio, the lower bound of the rate ratio."""
    many, deny = many_rules(folder), rules(folder, "127.:deny\n:allow\n", "deny")
    install_noop(folder)
    plain = [*QUICK, "-H", *WHERE, C_PROGRAM]
    ruled = [*QUICK, "-H", "-x", many, *WHERE, C_PROGRAM]
    denied = [*QUICK, "-H", "-x", deny, *WHERE, C_PROGRAM]
    named = [*QUICK, "-h", *WHERE, C_PROGRAM]
    called = [*QUICK, "-H", "--preload", NOOP, *WHERE, f"{folder}/bin/noop"]
    reused = [*QUICK, "-H", "--preload", NOOP, "--reuse", "100", *WHERE, f"{folder}/bin/noop"]
    return {
        "a. spawn, C program": ([THEIRS, *plain], [OURS, *plain], 1.05, 0.8),
        "a. the same, -x 20,000 rules": ([THEIRS, *ruled], [OURS, *ruled], 1.05, 0.8),
        "b. refused by a rule": ([THEIRS, *denied], [OURS, *denied], 1.0, 2.0),
        "c. --preload, trivial program": ([THEIRS, *plain], [OURS, *called], 0.8, 1.3),
        "c. the same, --reuse 100": ([THEIRS, *plain], [OURS, *reused], 0.8, 1.3),
        "d. -h from /etc/hosts (theirs: -H)": ([THEIRS, *plain], [OURS, *named], 2.5, 0.0),
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    connections = int(sys.argv[2]) if len(sys.argv) > 2 else 3000
    print(f"medians of {rounds} rounds, {connections} connections each, 20 at once")
    print(f"{'':36}{'theirs':>18}{'ours':>18}{'CPU ratio':>16}{'rate ratio':>16}")
    with tempfile.TemporaryDirectory() as folder:
        for name, (theirs, ours, max_cpu, min_rate) in scenarios(folder).items():
            figures = measure({"theirs": theirs, "ours": ours}, rounds, connections)
            c, python = figures["theirs"], figures["ours"]
            cells = [f"{figure.cost:.3f} ms {figure.rate:5.0f}/s" for figure in (c, python)]
            cpu, rate = python.cost / c.cost, python.rate / c.rate
            print(f"{name:36}{cells[0]:>18}{cells[1]:>18}{cpu:9.2f} <={max_cpu:4}{rate:9.2f} >={min_rate:4}")


if __name__ == "__main__":
    main()
