"""The machine on which the benchmarks run, for the head of their table."""

import os
import platform
import sys
import sysconfig
import time
from pathlib import Path

BUILD_OPTIONS = ("--enable-optimizations", "--with-lto")


def cpu_model() -> str:
    """Return the processor's name as /proc/cpuinfo has it, which not every architecture does."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def memory() -> float:
    """Return the gigabytes of memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def python() -> str:
    """Return implementation, version, build and compiler."""
    return f"{platform.python_implementation()} {' '.join(sys.version.split())}"


def build_options() -> str:
    """Return which optimizations configure was asked for. Debian asks make for them, which no Python can report."""
    options = str(sysconfig.get_config_var("CONFIG_ARGS"))
    return "configured " + ", ".join(f"{'with' if word in options else 'without'} {word}" for word in BUILD_OPTIONS)


def title() -> str:
    """Return what identifies a table: the build of Python and the processor."""
    return f"{python()} on {cpu_model()}"


def head(command: str) -> str:
    """Return the head of a table as a Markdown list."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    system = os.uname()
    lines = {
        "machine": f"{cpu_model()}, {os.cpu_count()} cores, {memory():.1f} GB of memory",
        "kernel": f"{system.sysname} {system.release} {system.machine}",
        "Python": f"{python()}, {build_options()}",
        "date": f"{time.strftime('%Y-%m-%d')}, load average {load} at the start",
        "command": f"`{command}`",
    }
    return "".join(f"- {name}: {text}\n" for name, text in lines.items())
