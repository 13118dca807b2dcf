# Where an agent lies on its host: what install.sh and remove.sh begin with. FOLDER is empty, or a folder for it alone.
set -u
umask 077
unit=/etc/systemd/system/fleetflow-agent.service

fail() {
    echo "$1" >&2
    exit 1
}

is_root() { [ "$(id -u)" = 0 ]; }
has_systemd() { [ -d /run/systemd/system ] && command -v systemctl >/dev/null; }

find_python() {
    for python in python3 /usr/bin/python3 /usr/local/bin/python3 /usr/libexec/platform-python; do
        python=$(command -v "$python") && "$python" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null && return
    done
    fail "there is no Python 3.8 or later, which the agent needs"
}

agent() { "$python" -I -S "$program" "$@" --state "$state"; }

lay_out() {
    if [ -n "$1" ]; then
        state=$1 program=$1/fleetflow-agent.py
    elif is_root; then
        state=/var/lib/fleetflow-agent program=/usr/local/lib/fleetflow-agent.py
    else
        state=$HOME/.fleetflow/agent program=$HOME/.fleetflow/agent/fleetflow-agent.py
    fi
}

has_unit() { is_root && has_systemd && [ -e "$unit" ]; }
is_our_unit() { grep -qF "\"$state\"" "$unit"; }

drop_unit() {
    if has_unit && is_our_unit; then
        systemctl disable --quiet --now fleetflow-agent
        rm -f "$unit"
        systemctl daemon-reload
    fi
}

# Scopes of commands are not the agent's: what a command left there on purpose goes on.
drop_slice() {
    is_root && has_systemd && ! [ -e "$unit" ] || return 0
    left=$(systemctl list-units --plain --no-legend 'fleetflow-*.scope')
    if [ -n "$left" ]; then
        echo "$left" | while read -r scope _; do echo "$scope goes on: it holds what its command left there"; done
    else
        systemctl stop system-fleetflow.slice 2>/dev/null || true
    fi
}
