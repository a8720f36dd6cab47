#!/usr/bin/env bash
# Installs the Debian packages that building runc, running the lab and testing
# what ctl writes for shells and for man need.
# Nothing is installed, and the network is not asked, where all are present.
set -euo pipefail

declare -A provides=(
	[ip]=iproute2 [nft]=nftables [busybox]=busybox-static [mkfs.ext4]=e2fsprogs [mount]=mount [gcc]=gcc [pkg-config]=pkg-config
	[zsh]=zsh [fish]=fish [mandoc]=mandoc [systemd-analyze]=systemd [openssl]=openssl
)
missing=()
for command in "${!provides[@]}"; do
	command -v "$command" >/dev/null || missing+=("${provides[$command]}")
done
pkg-config --exists libseccomp 2>/dev/null || missing+=(libseccomp-dev)
[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
if [ ${#missing[@]} -eq 0 ]; then
	exit 0
fi

echo "missing: ${missing[*]}"
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "install them with your package manager (as root on Debian: make deps)" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
for try in 1 2 3; do
	if apt-get -qq update && apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null; then
		exit 0
	fi
	echo "apt-get: try $try did not succeed" >&2
	sleep $((try * 5))
done
exit 1
