#!/usr/bin/env bash
# Says whether the committed generated code is what the .proto files give.
# Usage: proto-current.sh BUF
set -euo pipefail

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$1" generate -o "$fresh"
if ! (diff <(cd proto && find . -name '*.pb.go' -exec sha256sum {} + | sort -k2) \
	<(cd "$fresh/proto" && find . -name '*.pb.go' -exec sha256sum {} + | sort -k2)); then
	echo 'generated code is not current: run "make proto" and commit what it writes' >&2
	exit 1
fi
