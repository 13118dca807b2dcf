# Remove the agent: its service, its program, its commands and all that it keeps. FOLDER as for install.sh.
lay_out "$1"
if ! [ -e "$program" ] && ! [ -e "$state/identity" ]; then
    drop_slice
    echo "there was none"
    exit
fi
find_python
drop_unit
agent leave || exit
drop_slice
rm -f "$program"
rmdir "$state" 2>/dev/null
[ -n "$1" ] || is_root || rmdir "$HOME/.fleetflow" 2>/dev/null
[ ! -e "$state" ] || echo "$state holds something else, which stays"
echo "removed"
