"""Processes of an example that end together: all are in the group of the first one."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

KILL_DELAY = 3  # seconds from SIGTERM to SIGKILL
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)

Processes = list["subprocess.Popen[Any]"]


def block_signals() -> set[signal.Signals]:
    """Block SIGCHLD and the signals that stop the example. Return the latter; one that is ignored stays ignored.

    wait_for_any fetches them. So none can interrupt between the start of a process and the assignment of its pid.
    """
    stop_signals = {number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    signal.pthread_sigmask(signal.SIG_BLOCK, {*stop_signals, signal.SIGCHLD})
    return stop_signals


def unblock_signals() -> None:
    """Unblock all signals in a new child: it would inherit the blocked signals of this process."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def start_beside(processes: Processes, command: list[str | Path]) -> None:
    """Start a process in the group of the first one, so that stop_group stops it, too, and add it to the list."""
    group = processes[0].pid
    processes.append(subprocess.Popen(command, process_group=group, preexec_fn=unblock_signals))


def wait_for_any(processes: Processes, stop_signals: set[signal.Signals]) -> int:
    """Return the exit code of the first process that exits, or 128 + the number of a stop signal that arrives first."""
    while True:
        for process in processes:
            if process.poll() is not None:
                return process.returncode
        number = signal.sigwait({*stop_signals, signal.SIGCHLD})
        if number in stop_signals:
            return 128 + number


def stop_group(processes: Processes) -> None:
    """Stop the processes and their sessions: SIGTERM, and SIGKILL after KILL_DELAY. The first one leads their group."""
    group = processes[0].pid
    deadline = time.monotonic() + KILL_DELAY
    try:
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < deadline:
            reap()
            os.killpg(group, 0)
            time.sleep(0.02)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass  # no process is left in the group
    for process in processes:
        process.wait()
        if process.stdout:
            process.stdout.close()


def reap() -> None:
    """Reap all ended children: killpg still finds a zombie in its group."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
