# Sourced by the scripts in examples/, and by tests/run: creates .venv in the current directory and installs the project into
# it. No compiler is needed: pure-cdb's C extension, which has no wheel for Python 3.12 and later, is not built. Messages begin
# with $name. Each slow step prints a line; an error prints a line and exits with 100.

fatal() {
    echo "$name: fatal: $*" >&2
    exit 100
}

# new_enough PYTHON: whether PYTHON exists and is version 3.11 or later.
new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# describe PYTHON: print `is VERSION` or `was not found`, to end a sentence.
describe() {
    if command -v "$1" >/dev/null; then echo "is $("$1" -V 2>&1)"; else echo "was not found"; fi
}

# find_python: set $python to a Python that is new enough and can create a venv. If $PYTHON is set, try nothing else.
find_python() {
    lacks_venv=
    set -- python3 python3.15 python3.14 python3.13 python3.12 python3.11
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; fi
    for python; do
        new_enough "$python" || continue
        if "$python" -c 'import ensurepip, venv' 2>/dev/null; then return; fi
        lacks_venv="$lacks_venv $python"
    done
    if [ -n "$lacks_venv" ]; then
        fatal "no venv module in$lacks_venv: on Debian or Ubuntu install python3-venv, or choose another Python: PYTHON=..."
    fi
    fatal "Python 3.11 or later is needed, but $1 $(describe "$1"). Choose another: PYTHON=..."
}

# make_venv: create .venv, or check that an existing one can be used.
make_venv() {
    if [ -e .venv ]; then
        new_enough .venv/bin/python3 && .venv/bin/python3 -c 'import pip' 2>/dev/null ||
            fatal "$PWD/.venv has no Python 3.11 or later with pip: remove it and try again"
        return
    fi
    find_python
    echo "$name: making $PWD/.venv with $("$python" -V)"
    trap 'rm -rf .venv; exit 100' HUP INT TERM
    "$python" -m venv .venv || { rm -rf .venv; fatal "unable to make $PWD/.venv"; }
    trap - HUP INT TERM
}

# install_project WHAT: run pip install -e WHAT, unless WHAT, or WHAT with more extras, was installed before from this
# directory with this pyproject.toml. pip is upgraded first: console scripts made by an old pip import re, which adds
# 5 ms to every start.
install_project() {
    stamp=.venv/installed${1#.}
    wanted=$(pwd && cat pyproject.toml)
    for earlier in "$stamp"*; do
        if [ "$(cat "$earlier" 2>/dev/null)" = "$wanted" ]; then
            echo "$name: using $PWD/.venv"
            return
        fi
    done
    echo "$name: installing into $PWD/.venv"
    pip="env ENABLE_DJB_HASH_CEXT=0 .venv/bin/python3 -m pip install -qq --disable-pip-version-check"
    { $pip --upgrade pip && $pip -e "$1"; } || fatal "pip could not install $1: see its messages above"
    printf '%s\n' "$wanted" >"$stamp"
}
