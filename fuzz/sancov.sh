#!/usr/bin/env bash
# RUSTC_WRAPPER: coverage instrumentation for paredown and its fuzz target alone. Dependencies are built as usual and run at
# full speed; instrumenting tract takes gigabytes of memory and longer than everything else.
rustc=$1
shift
for ((i = 1; i <= $#; i++)); do
  if [ "${!i}" = "--crate-name" ]; then
    next=$((i + 1))
    name=${!next}
  fi
done
case "$name" in
  paredown | load_inspect)
    exec "$rustc" "$@" --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
      -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
      -Cllvm-args=-sanitizer-coverage-trace-compares
    ;;
  *) exec "$rustc" "$@" ;;
esac
