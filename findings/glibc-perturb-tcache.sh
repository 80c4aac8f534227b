#!/bin/sh
# glibc's tunable glibc.malloc.perturb (mallopt's M_PERTURB) overwrites freed memory, but not small blocks.
#
# For whom: everyone who sets it (or MALLOC_PERTURB_) to find uses of freed or uninitialized memory, or to have old contents
# overwritten: most blocks of most programs are small.
# Package: libc6 2.36-9+deb12u14 (Debian 12).
# Behaviour: mallopt(3) and the manual of glibc say that blocks are filled when they are allocated and when they are freed.
# Blocks of up to 1032 bytes, which go to the cache of the thread (tcache), keep their contents when they are freed, except for
# the 16 bytes that the cache itself uses, and whoever gets them from malloc() next still finds the contents. Larger blocks are
# filled. With glibc.malloc.tcache_count=0 in addition, small blocks are filled, too.
# Output seen:
#   perturb=173
#   of 200 bytes, 184 remain after free(), 184 after the next malloc()
#   of 1032 bytes, 1016 remain after free(), 1016 after the next malloc()
#   of 1040 bytes, 0 remain after free(), 0 after the next malloc()
#   perturb=173:glibc.malloc.tcache_count=0
#   (0 and 0 for all three)
# Exit status: 0 as described, 1 changed, 2 cannot be run.
cannot() { echo "cannot be run: $1" >&2; exit 2; }
for program in apt-get dpkg cc; do command -v $program >/dev/null || cannot "no $program"; done
folder=$(mktemp -d) || exit 2
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 2
apt-get -qq download libc6:amd64=2.36-9+deb12u14 >download.log 2>&1 && dpkg -x libc6_*.deb . || cannot "$(tail -n 1 download.log)"

cat >freed.c <<'END'
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int memory;

/* How many bytes of a block are as written, behind the 16 that the cache uses; the kernel reads, so the compiler cannot guess. */
static size_t remaining(off_t address, size_t size) {
    static char copy[4096];
    size_t count = 0;
    if (pread(memory, copy, size, address) != (ssize_t)size) exit(2);
    for (size_t i = 16; i < size; i++) count += copy[i] == 'S';
    return count;
}

int main(void) {
    size_t sizes[] = {200, 1032, 1040};
    memory = open("/proc/self/mem", O_RDONLY);
    for (int i = 0; i < 3; i++) {
        size_t size = sizes[i];
        char *block = malloc(size), *neighbour = malloc(32); /* a neighbour in use: the block is not merged with free memory */
        off_t address = (off_t)block;
        memset(block, 'S', size);
        free(block);
        size_t freed = remaining(address, size);
        block = malloc(size);
        printf("of %zu bytes, %zu remain after free(), %zu after the next malloc()\n", size, freed, remaining((off_t)block, size));
        if (!neighbour) return 2;
    }
}
END
cc -O0 -w -o freed freed.c || cannot "cc has failed"
export GLIBC_TUNABLES
for GLIBC_TUNABLES in glibc.malloc.perturb=173 glibc.malloc.perturb=173:glibc.malloc.tcache_count=0; do
    echo "${GLIBC_TUNABLES#glibc.malloc.}"
    lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path lib/x86_64-linux-gnu ./freed || cannot "the program has failed"
done >output
cat output
cmp -s output - <<'END' && exit 0
perturb=173
of 200 bytes, 184 remain after free(), 184 after the next malloc()
of 1032 bytes, 1016 remain after free(), 1016 after the next malloc()
of 1040 bytes, 0 remain after free(), 0 after the next malloc()
perturb=173:glibc.malloc.tcache_count=0
of 200 bytes, 0 remain after free(), 0 after the next malloc()
of 1032 bytes, 0 remain after free(), 0 after the next malloc()
of 1040 bytes, 0 remain after free(), 0 after the next malloc()
END
echo "the behaviour has changed" >&2
exit 1
