"""Random rules files and clients, given to Debian's tcprules and tcprulescheck and to ours: they must agree.

    .venv/bin/python tests/fuzz/fuzz_tcprules.py [FILES [SEED]]

FILES rules files (20,000), each with two clients, and for every fourth a broken cdb. Prints each difference and, at the
end, the counts. Exits 1 if there is a difference. Intended differences are listed in tests/kit/rulesfuzz.py.
"""

import collections
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.kit import rulesfuzz
from tests.kit.support import peer


def main() -> int:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns()
    peer(rulesfuzz.C_TCPRULES)
    chance = random.Random(seed)
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        for number in range(files):
            fuzz_one(chance, Path(name), counts)
            if number % 1000 == 999:
                print(f"{number + 1} files", dict(counts), flush=True)
    print(f"seed {seed}:", ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    return 1 if counts["DIFFERENT"] else 0


def fuzz_one(chance: random.Random, directory: Path, counts: collections.Counter[str]) -> None:
    rules = rulesfuzz.rules_file(chance)
    reason = rulesfuzz.by_design(rules)
    if reason:
        counts[f"not compared: {reason}"] += 1
        return
    record(rulesfuzz.compare_files(rules, directory), "files", counts)
    compiled = directory / "r.cdb"
    if not compiled.exists():
        counts["files refused by both"] += 1
        return
    for _ in range(2):
        record(rulesfuzz.compare_check(rulesfuzz.client(chance, rules), directory), "clients", counts)
    if not chance.randrange(4):
        compiled.write_bytes(rulesfuzz.broken(chance, compiled.read_bytes()))
        client = rulesfuzz.client(chance, rules)
        record(rulesfuzz.compare_check(client, directory, is_broken=True), "clients of broken files", counts)


def record(difference: str | None, what: str, counts: collections.Counter[str]) -> None:
    counts[what] += 1
    if difference:
        counts["DIFFERENT"] += 1
        print(difference, flush=True)


if __name__ == "__main__":
    sys.exit(main())
