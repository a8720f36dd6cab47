#!/usr/bin/env bash
# deb.sh BIN NFPM OUT makes a Debian package in the directory OUT of ctl,
# containerd, its shim and runc in the directory BIN, by the program NFPM
# (internal/tools/nfpm), and prints its name. Equal programs and an equal
# SOURCE_DATE_EPOCH (the commit's time, if unset) give equal bytes.
set -euo pipefail
[ $# = 3 ] || { echo 'usage: deb.sh BIN NFPM OUT' >&2; exit 2; }
bin=$(realpath "$1") nfpm=$(realpath "$2") out=$(realpath "$3")
cd "$(dirname "$0")/.."

export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
# A daemon that runs here has no say in what is packed.
ctl() { "$bin/ctl" --host unix:///nonexistent "$@" 2>/dev/null; }
VERSION=$(packaging/deb-version.sh "$(ctl version --format '{{.Client.Version}}')" "$SOURCE_DATE_EPOCH")
ARCH=$(ctl version --format '{{.Client.Arch}}')
export VERSION ARCH

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree
put() { install -D -m "$1" "$2" "$tree/$3"; }
zip() { install -d "$(dirname "$tree/$1")" && gzip -9n >"$tree/$1"; }
text() { install -d "$(dirname "$tree/$1")" && cat >"$tree/$1"; }
umask 022

# The daemon looks for its tools beside itself.
for program in ctl containerd containerd-shim-runc-v2 runc; do
	put 0755 "$bin/$program" "usr/lib/skep/$program"
done
install -d "$tree/usr/bin" && ln -s ../lib/skep/ctl "$tree/usr/bin/ctl"
put 0644 packaging/skep.service usr/lib/systemd/system/skep.service
export DEFAULT=$work/default
install -m 0644 packaging/deb/default "$DEFAULT"

ctl man "$work/man"
for page in "$work"/man/man*/*; do
	zip "usr/share/man${page#"$work/man"}.gz" <"$page"
done
ctl completion bash | text usr/share/bash-completion/completions/ctl
ctl completion zsh | text usr/share/zsh/vendor-completions/_ctl
ctl completion fish | text usr/share/fish/vendor_completions.d/ctl.fish

doc=usr/share/doc/skep
put 0644 packaging/deb/copyright $doc/copyright
put 0644 packaging/deb/lintian-overrides usr/share/lintian/overrides/skep
zip $doc/changelog.gz <CHANGELOG.md
zip $doc/changelog.Debian.gz <<EOF
skep ($VERSION-1) unstable; urgency=medium

  * What changed is in changelog.gz.

 -- Skep maintainers <skep-project@users.noreply.github.com>  $(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")
EOF
find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
touch -d "@$SOURCE_DATE_EPOCH" "$DEFAULT"

"$nfpm" packaging/nfpm.yaml "$tree" "$out/skep_$VERSION-1_$ARCH.deb"
echo "$out/skep_$VERSION-1_$ARCH.deb"
