# Install the agent, or a newer one in its place: SHA256 of the program, which is our input, HUB, FINGERPRINT, SERVICE, FOLDER.
# Its last lines are what the hub is to know of it, and how it runs.
sum=$1 hub=$2 fingerprint=$3 service=$4
lay_out "$5"
find_python

if [ "$service" = auto ]; then
    service=plain
    ! is_root || ! has_systemd || service=systemd
elif [ "$service" = systemd ]; then
    has_systemd || fail "there is no systemd; --service plain does without"
    is_root || fail "a service of systemd is made by root: --become"
fi
[ "$service" = plain ] || ! has_unit || is_our_unit || fail "$unit is that of another agent, which lies elsewhere; --service plain does without"
[ -z "$5" ] || [ -e "$program" ] || [ -z "$(ls -A "$state" 2>/dev/null)" ] || fail "$state is not empty; --folder wants a folder of its own"

mkdir -p "$state" || exit
[ -O "$state" ] || fail "$state is another user's"
(umask 022 && mkdir -p "${program%/*}") || exit
old=$program new=$program.new
trap 'rm -f "$new"' EXIT
cat >"$new" || exit
"$python" -I -S -c 'import hashlib, sys; sys.exit(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest() != sys.argv[2])' "$new" "$sum" ||
    fail "the program did not arrive whole"
program=$new
told=$(agent enrol --hub "$hub" ${fingerprint:+--fingerprint "$fingerprint"}) || exit
program=$old
mv "$new" "$program" || exit

if [ "$service" = systemd ]; then
    [ ! -e "$unit" ] || systemctl stop fleetflow-agent
    agent stop || exit
    agent unit | (umask 022 && cat >"$unit") || exit
    systemctl daemon-reload && systemctl enable --quiet fleetflow-agent && systemctl start fleetflow-agent || exit
    how="systemd looks after it"
else
    drop_unit
    agent stop || exit
    agent start >/dev/null || exit
    how="it will not survive a reboot: there is no systemd to start it"
    ! has_systemd || how="it will not survive a reboot: systemd does not look after it"
fi
printf '%s\n%s\n' "$how" "$told"
