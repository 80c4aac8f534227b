# Read by examples/quickstart and tests/run: make .venv in the current directory and install the project into it.
# No compiler is needed: pure-cdb's C extension, of which there is no wheel for Python 3.12 and later, is left out.
# Expects $name, the program to blame in messages. Says one line for what takes time, and one for what goes wrong.

fatal() {
    echo "$name: fatal: $*" >&2
    exit 100
}

# new_enough PYTHON: is there such a program, and is it 3.11 or later?
new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# version PYTHON: what it says of itself, in words that end a sentence.
version() {
    if command -v "$1" >/dev/null; then "$1" -V 2>&1; else echo "not there"; fi
}

# find_python: set $python to one that is new enough and can make a venv. A $PYTHON of the user's is the only candidate.
find_python() {
    lacks_venv=
    set -- python3 python3.13 python3.12 python3.11
    if [ -n "${PYTHON:-}" ]; then set -- "$PYTHON"; fi
    for python; do
        new_enough "$python" || continue
        if "$python" -c 'import ensurepip, venv' 2>/dev/null; then return; fi
        lacks_venv="$lacks_venv $python"
    done
    if [ -n "$lacks_venv" ]; then
        fatal "no venv module in$lacks_venv: on Debian or Ubuntu install python3-venv, or name another Python: PYTHON=..."
    fi
    fatal "Python 3.11 or later is needed, and $1 is $(version "$1"). Name another: PYTHON=..."
}

# make_venv: make .venv, or check the one that is there.
make_venv() {
    if [ -e .venv ]; then
        new_enough .venv/bin/python3 && .venv/bin/python3 -c 'import pip' 2>/dev/null ||
            fatal "$PWD/.venv does not hold Python 3.11 or later with pip: remove it and try again"
        return
    fi
    find_python
    echo "$name: making $PWD/.venv with $("$python" -V)"
    trap 'rm -rf .venv; exit 100' HUP INT TERM
    "$python" -m venv .venv || { rm -rf .venv; fatal "unable to make $PWD/.venv"; }
    trap - HUP INT TERM
}

# install_project WHAT: pip install -e WHAT, unless it, or more, was installed here before with this pyproject.toml.
# pip is brought up to date first: the console scripts of an old one import re, which costs every start 5 ms.
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
    { $pip --upgrade pip && $pip -e "$1"; } || fatal "pip could not install $1: its reasons are above"
    printf '%s\n' "$wanted" >"$stamp"
}
