#!/bin/sh
# Installs missing Debian packages, or names them. Usage: programs.sh PROGRAM:PACKAGE ...   or: programs.sh --python
set -eu
PATH=$PATH:/usr/sbin:/sbin
for programs in /usr/lib/postgresql/*/bin; do PATH=$PATH:$programs; done

if [ "${1:-}" = --python ]; then
    missing="python3 python3-venv"
else
    missing=
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
    done
fi
[ -n "$missing" ] || exit 0

root=
[ "$(id -u)" = 0 ] || root="sudo -n"
if ! command -v apt-get >/dev/null 2>&1 || ! $root true 2>/dev/null; then
    echo "These packages are missing, and cannot be installed from here:$missing" >&2
    # Without Python nothing goes on; without a test's program that test is skipped (and fails where CI is set).
    [ "${1:-}" != --python ] || exit 1
    exit 0
fi
echo "Installing:$missing"
case $missing in
*postgresql*) # its programs are wanted, and no server that it would set up and start
    $root sh -c 'file=/etc/postgresql-common/createcluster.conf
        [ -e $file ] || { mkdir -p ${file%/*} && echo "create_main_cluster = false" >$file; }' ;;
esac
$root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 sh -c "
    apt-get install -qq -y --no-install-recommends $missing >/dev/null 2>&1 ||
    { apt-get update -qq
      for package in $missing; do # one by one: a system may have no package of one of these names
          apt-get install -qq -y --no-install-recommends \$package >/dev/null || echo \"Not installed: \$package\" >&2
      done; }"
