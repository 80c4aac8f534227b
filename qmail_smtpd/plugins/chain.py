"""Run the plugins of one section after the other."""

from time import monotonic

from qmail_smtpd.plugins.commands import FAILURE, Reader
from qmail_smtpd.plugins.run import Failure, run
from qmail_smtpd.smtp.outcome import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qmail_smtpd.plugins.listing import Listing

TIME_LIMIT = 60.0  # seconds for all plugins of one command


class Chain:
    """The plugins of one session. `changed`: the names of the variables that they have set or unset."""

    __slots__ = ("changed", "listing", "warnings")

    def __init__(self, listing: "Listing") -> None:
        self.listing = listing
        self.changed: set[bytes] = set()
        self.warnings: list[bytes] = []  # of the last run

    def run(
        self, section: bytes, variable: bytes, address: bytes, environ: dict[bytes, bytes], deadline: float | None
    ) -> Outcome:
        """Run the plugins of a section, with the environment, which they may change.

        `variable`: the one that has the address; both are empty for a command without an address. `deadline`: of the
        session.
        """
        outcome = Outcome(address)
        reader = Reader(outcome, environ, variable, self.changed)
        self.warnings = reader.warnings
        limit = monotonic() + TIME_LIMIT
        for plugin in self.listing[section]:
            try:
                output = run(plugin, environ, limit if deadline is None else min(limit, deadline))
            except Failure as failure:
                outcome.fail(FAILURE % (plugin, failure.why), plugin, failure.why)
                break
            if not reader.read(plugin, output):
                break
        return outcome
