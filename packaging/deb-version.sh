#!/bin/sh
# deb-version.sh VERSION EPOCH prints what Debian calls a version that "git
# describe" gave, so that dpkg finds a later commit newer:
#
#   v1.2.0                  1.2.0
#   v1.2.0-rc1              1.2.0~rc1         before 1.2.0
#   v1.2.0-4-g7fa45f0       1.2.0+4.g7fa45f0  behind it
#   7fa45f0, before any tag 0~20261125121546.7fa45f0, by the commit's time
#
# A tree with changes that are not committed is "+dirty".
set -eu
version=$(printf '%s\n' "${1#v}" | sed -E 's/-dirty$/+dirty/; s/-([0-9]+)-(g[0-9a-f]+)/+\1.\2/; s/-/~/g')
case "$1" in
v[0-9]*) ;;
*) version="0~$(date -u -d "@$2" +%Y%m%d%H%M%S).$version" ;;
esac
printf '%s\n' "$version"
