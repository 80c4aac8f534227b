#!/bin/sh
# A program that glibc's posix_spawn() starts ignores the signals 32 and 33. A program that fork() and execve() start does not.
#
# For whom: programs that must not have ignored signals, or pass them on to others: supervisors, and tests that compare SigIgn
# in /proc/PID/status. An ignored signal stays ignored after execve(), so all descendants have it, too.
# Package: libc6 2.36-9+deb12u14 (Debian 12).
# Behaviour: signals 32 and 33 are the first two real-time signals of the kernel, which glibc keeps for threads. posix_spawn()
# sets them to "ignore" in the child, and so does system(), which uses it. No attribute prevents it: sigfillset() leaves the two
# out, so POSIX_SPAWN_SETSIGDEF for "all" signals does not name them.
# Output seen (the bits of 32 and 33 in SigIgn):
#   fork and execve: 000000000
#   posix_spawn: 180000000
#   posix_spawn, all signals to default: 180000000
#   system: 180000000
# Exit status: 0 as described, 1 changed, 2 cannot be run.
cannot() { echo "cannot be run: $1" >&2; exit 2; }
for program in apt-get dpkg cc; do command -v $program >/dev/null || cannot "no $program"; done
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 2
apt-get -qq download libc6:amd64=2.36-9+deb12u14 >download.log 2>&1 && dpkg -x libc6_*.deb . || cannot "$(tail -n 1 download.log)"

cat >start.c <<'END'
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **words) {
    char *command[] = {"/bin/grep", "SigIgn", "/proc/self/status", NULL}, *empty[] = {NULL};
    posix_spawnattr_t attributes;
    sigset_t all;
    pid_t child;
    if (count != 2) return 2;
    posix_spawnattr_init(&attributes);
    if (!strcmp(words[1], "all")) {
        sigfillset(&all);
        posix_spawnattr_setsigdefault(&attributes, &all);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
    }
    if (!strcmp(words[1], "system")) return system("exec grep SigIgn /proc/self/status");
    if (!strcmp(words[1], "fork") && !(child = fork())) return execve(command[0], command, empty);
    if (strcmp(words[1], "fork") && posix_spawn(&child, command[0], NULL, &attributes, command, empty)) return 2;
    return waitpid(child, NULL, 0) != child;
}
END
cc -w -o start start.c || cannot "cc has failed"
changed=0
while read -r way expected name; do
    line=$(lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path lib/x86_64-linux-gnu ./start "$way") || cannot "no output"
    bits=$((0x${line##*[!0-9a-f]} & 0x180000000))
    printf '%s: %09x\n' "$name" $bits
    [ $bits = $((0x$expected)) ] || changed=1
done <<'END'
fork 0 fork and execve
spawn 180000000 posix_spawn
all 180000000 posix_spawn, all signals to default
system 180000000 system
END
[ $changed = 0 ] || echo "the behaviour has changed" >&2
exit $changed
