#!/usr/bin/env bash
# Runs every fuzz target of the module for the given time each.
# Usage: fuzz.sh DURATION
set -euo pipefail

grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' . | while read -r file; do
	sed -nE 's/^func (Fuzz[A-Za-z0-9_]+)\(.*/\1/p' "$file" | while read -r target; do
		echo "== $target in $(dirname "$file")"
		go test "$(dirname "$file")" -run '^$' -fuzz "^$target\$" -fuzztime "$1" </dev/null
	done
done
