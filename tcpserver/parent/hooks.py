"""What loaded modules do before each fork, so that not every child has to do it.

Such a module has a function `before_fork(environ)`. It gets tcpserver's own environment, without what rules set, and is
called at the start and for each batch of clients, as the account that serves. It must not wait. What it cannot load or
open, each child tries again, and reports.
"""

from tcprules import strerr

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    Hook = Callable[[Mapping[bytes, bytes]], object]

registered: "list[Hook]" = []
reported: "list[Hook]" = []
quiet: list[bool] = []  # not empty with -q


def register(module: "ModuleType") -> None:
    """Remember the module's hook, if it has one."""
    hook: Hook | None = getattr(module, "before_fork", None)
    if hook is not None and hook not in registered:
        registered.append(hook)


def before_fork(environ: "Mapping[bytes, bytes]") -> None:
    """Call every hook. An error of one is logged once, and never ends the server."""
    for hook in registered:
        try:
            hook(environ)
        except (ImportError, OSError):
            continue  # each child tries again, and reports
        except Exception as error:  # noqa: BLE001  (any package's code: the server outlives whatever it does)
            report(hook, error)


def report(hook: "Hook", error: Exception) -> None:
    """Log the first error of a hook."""
    if quiet or hook in reported:
        return
    reported.append(hook)
    text = ascii(f"{type(error).__name__}: {error}")[1:-1]
    strerr.say(f"tcpserver: warning: before_fork of {hook.__module__}: {text}")
