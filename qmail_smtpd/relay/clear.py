"""clearopensmtp: remove what has expired from the store. For cron: silent when all is well."""

import os

from qmail_smtpd.relay.kinds import open_store
from qmail_smtpd.relay.settings import Settings
from qmail_smtpd.relay.trouble import Trouble
from tcprules import strerr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> "NoReturn":
    """The program. Takes no arguments; ends with 0, or 111 and a line that says why."""
    try:
        open_store(Settings(os.environb)).expire()
    except Trouble as trouble:
        strerr.die(strerr.TEMPORARY, "clearopensmtp: fatal: ", trouble.text)
    os._exit(0)
