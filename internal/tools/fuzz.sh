#!/usr/bin/env bash
# Runs every fuzz target of the module, each package's after one build of it.
# Usage: fuzz.sh DURATION  each for that long, guided by coverage
#        fuzz.sh COUNTx    each so many times, by chance alone: a build that sees
#                          coverage would take longer than the whole pass
set -euo pipefail

# targets BINARY ARGS...: runs those of a package, in its directory.
targets() {
	local target
	for target in $("$1" -test.list '^Fuzz'); do
		"$1" -test.run '^$' -test.fuzz "^$target\$" "${@:2}"
	done
}

packages() {
	grep -rlE '^func Fuzz[A-Z]' --include='*_test.go' . | xargs -n 1 dirname | sort -u
}

case ${1:-} in
within) # what "go test" runs in place of a package's binary: COUNTx BINARY ...
	none=$(mktemp -d)
	trap 'rm -rf "$none"' EXIT
	targets "$3" -test.fuzztime "$2" -test.fuzzcachedir "$none" -test.parallel 1
	;;
*x)
	packages | xargs go test -count=1 -vet=off -ldflags=-w -exec "$(realpath "$0") within $1"
	;;
?*)
	bin=$(mktemp -d)
	trap 'rm -rf "$bin"' EXIT
	corpora=$(go env GOCACHE)/fuzz
	packages | while read -r dir; do
		path=$(go list "$dir")
		echo "== $path"
		go test -c -fuzz . -o "$bin/test" "$dir"
		(cd "$dir" && targets "$bin/test" -test.fuzztime "$1" -test.fuzzcachedir "$corpora/$path" </dev/null)
	done
	;;
*)
	echo 'usage: fuzz.sh DURATION | COUNTx' >&2
	exit 2
	;;
esac
