"""The rules file as the parent sees it: read once, used from memory, read again as soon as it may have changed.

Makes no decision (tcprules.lookup does). A forked child opens the file for itself, as 0.88 does.
"""

import os
import time

from tcprules import lookup

SETTLED = 2.0  # seconds; a file changed more recently may change again without a new time stamp
IN_MEMORY = 4 * 1024 * 1024  # bytes, some 80,000 rules; of a larger file, each search reads what it needs
MOST_VERDICTS = 10_000

Identity = tuple[int, int, int, int, int]


class RulesFile:
    """The rules at a path. The file stays open, so that its inode number cannot come back as another file's."""

    __slots__ = ("descriptor", "identity", "path", "rules", "verdicts")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.descriptor = -1
        self.identity: Identity | None = None
        self.rules: lookup.Rules | None = None
        self.verdicts: dict[bytes, lookup.Verdict] = {}  # of these rules, by the addresses of recent clients

    def judge(self, ip: bytes) -> lookup.Verdict:
        """The verdict for a client without a name. Raises OSError if the file cannot be read: the client is dropped."""
        found = os.stat(self.path)
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if identity != self.identity or self.rules is None:
            self.forget()
            if time.time() - max(found.st_mtime, found.st_ctime) < SETTLED:
                return self.judge_once(ip)
            self.load()
        verdict = self.verdicts.get(ip)
        if verdict is None:
            assert self.rules
            verdict = lookup.judge(self.rules, ip, None, None)
            if len(self.verdicts) >= MOST_VERDICTS:
                self.verdicts.clear()
            self.verdicts[ip] = verdict
        return verdict

    def judge_once(self, ip: bytes) -> lookup.Verdict:
        """The verdict of the file as it is at this moment. Nothing of it is kept."""
        with lookup.open_rules(self.path) as rules:
            return lookup.judge(rules, ip, None, None)

    def load(self) -> None:
        """Open the file, and remember it if it is settled: what open() finds may be newer than what stat() saw."""
        rules = lookup.open_rules(self.path)
        assert isinstance(rules.source, lookup.File)
        descriptor = self.descriptor = rules.source.descriptor
        found = os.fstat(descriptor)
        if found.st_size <= IN_MEMORY:
            data = os.pread(descriptor, found.st_size, 0)
            rules = lookup.Rules.from_bytes(data)
        self.rules = rules
        if time.time() - max(found.st_mtime, found.st_ctime) >= SETTLED:
            self.identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    def forget(self) -> None:
        """Close the file, and forget its verdicts."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor, self.identity, self.rules = -1, None, None
        self.verdicts.clear()
