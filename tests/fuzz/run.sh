#!/usr/bin/env bash
# What the C kernels do with hostile calls and in threads. README.md beside this file says more.
#   run.sh replay           every input in corpus/ under AddressSanitizer and UndefinedBehaviorSanitizer; gcc or clang
#   run.sh threads          every kernel from four threads under ThreadSanitizer; gcc or clang
#   run.sh memcheck         the same program under valgrind's memcheck; valgrind
#   run.sh fuzz SECONDS     new inputs by libFuzzer, kept in FUZZ_DIR (default: a directory under /tmp); clang
#   run.sh minimise DIR     replace corpus/ by as few inputs of DIR and corpus/ as cover the same; clang
# Ends with a non-zero status when anything is found.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
common="-std=c99 -O1 -g -ffp-contract=off -fno-math-errno -Wall -Wextra -Werror -Wno-pass-failed -I$root/csrc"
# (clang would warn of loops that stay scalar without its full optimiser.)
kernels=$(find "$root/csrc" -name '*.c' | sort)
cc=${CC:-gcc}

# compile PROGRAM SOURCE FLAGS...
compile() {
    local program=$1 source=$2
    shift 2
    # shellcheck disable=SC2086
    "$cc" $common "$@" "$here/$source" $kernels -lm -o "$build/$program"
}

fuzzer() {
    cc=clang
    compile fuzz fuzz_kernels.c -march=native -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
}

case "${1:-}" in
replay)
    # Vectors as wide as this machine has, and none at all: two ways through the same code.
    sanitize="-fsanitize=address,undefined -fno-sanitize-recover=all -DREPLAY"
    # shellcheck disable=SC2086
    compile native fuzz_kernels.c $sanitize -march=native &
    # shellcheck disable=SC2086
    compile plain fuzz_kernels.c $sanitize -DRR_PLAIN
    wait $!
    for program in native plain; do
        find "$here/corpus" -type f -print0 | xargs -0 "$build/$program"
    done
    ;;
threads)
    compile threads threads_driver.c -pthread -fsanitize=thread
    TSAN_OPTIONS="halt_on_error=1 exitcode=66 ${TSAN_OPTIONS:-}" "$build/threads"
    ;;
memcheck)
    compile threads threads_driver.c -pthread
    valgrind -q --error-exitcode=66 --tool="${TOOL:-memcheck}" "$build/threads"
    ;;
fuzz)
    fuzzer
    new=${FUZZ_DIR:-$(mktemp -d)}
    mkdir -p "$new"
    echo "new inputs go to $new"
    "$build/fuzz" -max_len=64 -timeout=30 -max_total_time="${2:?seconds}" -print_final_stats=1 \
        -artifact_prefix="$new/" "$new" "$here/corpus"
    ;;
minimise)
    fuzzer
    mkdir "$build/few"
    "$build/fuzz" -merge=1 -use_counters=0 "$build/few" "$here/corpus" "${2:?directory}"
    rm -rf "$here/corpus"
    cp -r "$build/few" "$here/corpus"
    du -sb "$here/corpus"
    ;;
*)
    sed -n '2,8p' "$0"
    exit 2
    ;;
esac
