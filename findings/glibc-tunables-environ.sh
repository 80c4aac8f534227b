#!/bin/sh
# With two tunables in GLIBC_TUNABLES, /proc/PID/environ does not show the environment that the program has.
#
# For whom: everyone who reads the environment of a process from /proc (ps e, monitors, "start it again with the same
# environment"), or checks there whether a tunable is set.
# Package: libc6 2.36-9+deb12u14 (Debian 12).
# Behaviour: in GLIBC_TUNABLES=a=1:b=2 the start-up code ends the first value with a NUL, in the memory where the kernel has
# put the environment, and gives the program an untouched copy. /proc/PID/environ shows that memory: it has GLIBC_TUNABLES=a=1,
# followed by b=2 as if that were another variable. Both tunables have their effect, and getenv() and programs that are started
# have the whole value. One tunable alone is shown as it is.
# Output seen:
#   printenv: GLIBC_TUNABLES=glibc.malloc.perturb=1:glibc.malloc.check=0 LAST=z
#   /proc/self/environ: GLIBC_TUNABLES=glibc.malloc.perturb=1 glibc.malloc.check=0 LAST=z
# Exit status: 0 as described, 1 changed, 2 cannot be run.
cannot() { echo "cannot be run: $1" >&2; exit 2; }
for program in apt-get dpkg; do command -v $program >/dev/null || cannot "no $program"; done
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 2
apt-get -qq download libc6:amd64=2.36-9+deb12u14 >download.log 2>&1 && dpkg -x libc6_*.deb . || cannot "$(tail -n 1 download.log)"

with() { # with PROGRAM...: run it with Debian's glibc, and two variables
    env -i GLIBC_TUNABLES=glibc.malloc.perturb=1:glibc.malloc.check=0 LAST=z \
        lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path lib/x86_64-linux-gnu "$@" >output || cannot "$1 has failed"
    tr '\0\n' '  ' <output
}
has=$(with /usr/bin/printenv)
shown=$(with /bin/cat /proc/self/environ)
echo "printenv: $has"
echo "/proc/self/environ: $shown"
[ "$has" = "GLIBC_TUNABLES=glibc.malloc.perturb=1:glibc.malloc.check=0 LAST=z " ] &&
    [ "$shown" = "GLIBC_TUNABLES=glibc.malloc.perturb=1 glibc.malloc.check=0 LAST=z " ] && exit 0
echo "the behaviour has changed" >&2
exit 1
