"""PARENT: what preloaded modules want to do before each fork, so that the children need not do it one by one.

Such a module has a function `before_fork(environ)`, which is told tcpserver's own environment, without what rules set.
It is called as the account that serves, at the start and for each client. It must not wait; what it cannot load or
open, its children find out for themselves, and say so.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import ModuleType

    Hook = Callable[[Mapping[bytes, bytes]], object]

known: "list[Hook]" = []


def learn(module: "ModuleType") -> None:
    """Remember what this module wants to do, if anything."""
    hook: Hook | None = getattr(module, "before_fork", None)
    if hook is not None and hook not in known:
        known.append(hook)


def before_fork(environ: "Mapping[bytes, bytes]") -> None:
    """In the parent, a fork is coming."""
    for hook in known:
        try:
            hook(environ)
        except (ImportError, OSError):
            continue  # the server goes on
