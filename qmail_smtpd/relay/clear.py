"""clearopensmtp: remove expired entries from the store. Made for cron: it prints nothing if all is well."""

import os

from qmail_smtpd.relay.errors import StoreError
from qmail_smtpd.relay.kinds import has_counters, is_redis, open_counters, open_store
from qmail_smtpd.relay.settings import Settings
from tcprules import strerr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> "NoReturn":
    """Run the program. It ignores arguments. The exit code is 0, or 111 after a line with the reason."""
    try:
        settings = Settings(os.environb)
        if is_redis(settings):
            os.write(1, b"clearopensmtp: nothing to do: the server removes what has expired\n")
            os._exit(0)
        try:
            open_store(settings).expire()
        finally:  # the counters are expired even if the store of logins fails
            if has_counters(settings):
                open_counters(settings).expire()
    except StoreError as error:
        strerr.die(strerr.TEMPORARY, "clearopensmtp: fatal: ", error.text)
    except OSError as error:  # only os.write raises it: failures of the store are StoreError
        strerr.die(strerr.TEMPORARY, "clearopensmtp: fatal: unable to write output: ", strerr.reason(error))
    os._exit(0)
