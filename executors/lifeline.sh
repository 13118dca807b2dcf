# The wrapper around one command, in POSIX sh. executors/lifeline.py sends it, without comments and indentation, after the values
# that it uses, and says what the marks mean. One process group holds them all:
#
#   main      reads the payload, prepares, runs the command, tells its exit code
#   watcher   ends it all when the lifeline has ended, or when no beat has come for a while
#   reader    reads the lifeline for the watcher, where the shell cannot do both
#   command   a sh of its own
#
# Where it takes a reader and a sleep to notice silence, one session's clock serves all of its connection. The watcher of a run that
# has ended by itself may stay, as the *warden* (ff_stays): should no beat come to it any more, it ends the connection, and with
# that the lifelines of all. A run that leans on a warden (ff_leans) has a watcher that only waits for the lifeline's end.
#
# Names begin with ff_, so that no variable of the login's environment is overwritten.

ff_say() {
  printf '\036%s%s\n' "$ff_nonce" "$1"
  printf '\036%s%s\n' "$ff_nonce" "$1" >&4
}

ff_refuse() {
  ff_say "refused $1"
  exit 1
}

# An anonymous file for $1 bytes: made empty, readable by nobody else, and gone from the folder before anything is in it.
ff_spool() {
  ff_file=${TMPDIR:-/tmp}/.fleetflow-$2
  (umask 077; set -C; : >"$ff_file") || ff_refuse spool
  exec 5>>"$ff_file" 6<"$ff_file"
  rm -f "$ff_file" && head -c "$1" <&3 >&5 || ff_refuse spool
  exec 5>&-
}

# Signals every marked process that has not had it yet, until a look finds no new one.
ff_sweep() {
  ff_new=1
  while [ "$ff_new" ]; do
    ff_new=
    for ff_pid in $(grep -ls "$ff_marker" /proc/[0-9]*/environ); do
      ff_pid=${ff_pid#/proc/} ff_pid=${ff_pid%/*}
      case $ff_seen in *" $ff_pid "*) continue ;; esac
      ff_seen="$ff_seen$ff_pid " ff_new=1
      kill "-$1" "$ff_pid"
    done
  done
}

# Whether anything is left but zombies and ourselves: something marked, or a member of the group.
ff_left() {
  grep -qs "$ff_marker" /proc/[0-9]*/environ ||
    grep -hs ") [^ZX] [0-9]* $$ " /proc/[0-9]*/stat | grep -Eqv "^($$|$ff_watcher) |\\) . ($ff_watcher|$ff_poller) "
}

# Ends the wait for the grace as soon as nothing is left. Without a /proc to look into, the whole grace passes.
ff_poll() {
  read -r ff_poller ff_line </proc/self/stat || return
  while kill -0 "$ff_sleep" && ff_left; do sleep 0.2 || sleep 1; done
  kill -9 "$ff_sleep"
}

# Ends everything, and dies with main when nothing marked is left. Main is stopped first: should somebody kill us half way, it must
# not report an end that nobody has seen.
ff_end() {
  kill -STOP $$
  read -r ff_watcher ff_line </proc/self/stat
  ff_seen=' '
  for ff_pid in $(grep -ls ") . [0-9]* $$ " /proc/[0-9]*/stat); do
    ff_pid=${ff_pid#/proc/} ff_seen="$ff_seen${ff_pid%/*} "
  done
  kill -TERM -$$
  ff_sweep TERM
  sleep "$ff_grace" &
  ff_sleep=$!
  ff_poll &
  wait "$ff_sleep"
  [ $? = 1 ] && sleep "$ff_whole_grace"
  ff_seen=' '
  while grep -qs "$ff_marker" /proc/[0-9]*/environ; do
    ff_sweep KILL
    sleep 0.05 || sleep 1
  done
  kill -KILL -$$
}

# Whether `read` can wait with a limit (in bash, busybox, ksh; not in dash): then the watcher needs nobody else.
ff_can_wait() {
  read -t 1 ff_line </dev/null
  [ $? = 1 ]
}

ff_watch() {
  [ -z "$ff_stays" ] || cd / # not to keep anybody's folder in use
  if [ -z "$ff_leans" ] || ff_lean; then
    if ff_can_wait; then
      while read -r -t "$ff_beat" ff_line <&3; do :; done
    else
      ff_watch_with_sleep
    fi
  fi
  trap '' VTALRM PROF URG
  if [ "$ff_stays" ]; then ff_judge_all; else ff_end; fi
}

# Waits for the lifeline's end; fails then. Succeeds when the warden is gone, and the run needs a clock of its own.
ff_lean() {
  trap '' PROF
  while read -r ff_line <&3; do [ "$ff_line" != alone ] || return 0; done
  return 1
}

# Whether the parent is the server of this one connection, and ours to end. OpenSSH says so in its title, "sshd: USER@notty"; what else
# may be there (the program of a ForceCommand, a server that is one process for all connections) says something else.
ff_is_served_alone() {
  ff_line=
  read -r ff_line <"/proc/$PPID/cmdline"
  case $ff_line in *"[listener]"*) return 1 ;; "sshd: "*@* | "sshd-session: "*@*) kill -0 "$PPID" ;; *) return 1 ;; esac
}

# Offers to stay, where that would save something, and ff_judge_all can see what it must (not a program that its user may not read).
# Who leans on it is read the way that this one was, without a look at the shell.
ff_apply() {
  if [ "$ff_sources" ] && ! ff_can_wait && [ -r "$ff_sh" ] && [ -e "/proc/$$/fd/3" ] && ff_is_served_alone; then
    printf '\036%sserver %s\n' "$ff_nonce" "$PPID"
  else
    ff_stays=
  fi
}

# The watcher of a run that may have become the warden: main has closed its end of the lifeline before it told the end of the command,
# and must not do so once this has looked. When the lifeline itself has ended, there is nothing left to be done.
ff_judge_all() {
  kill -STOP $$
  [ -e "/proc/$$/fd/1" ] && [ ! -e "/proc/$$/fd/3" ] || ff_end
  kill -CONT $$
  [ "$ff_over" = silent ] || exit
  kill -9 "$ff_reader"
  if ff_is_served_alone; then
    kill -TERM "$PPID"
    sleep 1
    ! ff_is_served_alone || kill -KILL "$PPID"
  fi
  exit
}

# Signals tell this one: VTALRM "it is over, go", PROF "a beat came", URG "the lifeline has ended". It waits in `wait`, where
# dash misses no signal (in `read` it does, when one comes just before). A sleep that ends by itself is silence.
ff_watch_with_sleep() {
  trap 'kill -9 $ff_reader $!; wait; exit' VTALRM
  trap 'kill -9 $ff_sleep' PROF
  trap 'ff_over=ended; kill -9 $ff_sleep' URG
  [ -r /proc/self/stat ] || ff_watcher=$(exec "$ff_sh" -c 'echo $PPID')
  ff_read <&3 3<&- &
  ff_reader=$!
  exec 3<&-
  until [ "$ff_over" ]; do
    sleep "$ff_beat" &
    ff_sleep=$!
    [ "$ff_over" ] || wait "$ff_sleep"
    if [ $? -gt 128 ]; then wait "$ff_sleep"; else ff_over=${ff_over:-silent}; fi
  done
}

# Nothing may end the reader but KILL and the lifeline's own end.
ff_read() {
  trap '' VTALRM PROF
  while read -r ff_line; do ff_tell PROF; done
  ff_tell URG
}

# The reader knows the watcher as its parent.
ff_tell() {
  if ! [ "$ff_watcher" ]; then
    read -r ff_line </proc/self/stat
    set -- "$1" ${ff_line##*) }
    ff_watcher=$3
  fi
  kill "-$1" "$ff_watcher"
}

# What a signal does to us: '' nothing, nor to what we start; : nothing, but a command starts without it.
ff_on_signals() {
  trap "$1" HUP INT QUIT USR1 USR2 TERM ALRM PIPE
}

# A job in the background has /dev/null as stdin before its own redirections are made: so the lifeline moves to 3.
ff_main() {
  ff_on_signals ''
  exec 3<&0 4>&2 </dev/null 2>/dev/null
  ff_line= ff_watcher= ff_over= ff_sleep= ff_reader=
  [ -z "$ff_cwd" ] || CDPATH= cd -- "$ff_cwd" >&2 || ff_refuse cwd
  ff_prepare
  [ "$ff_leans" = "$PPID" ] || ff_leans=
  [ -z "$ff_stays" ] || ff_apply
  ff_say ready
  # Beats may come before the start.
  until [ "$ff_line" = go ]; do read -r ff_line <&3 && [ -z "${ff_line#go}" ] || exit 1; done
  ff_watch 4>&- 6<&- 7<&- >&2 &
  ff_job=$!
  ff_on_signals :
  # In the foreground: in the background the command would start with INT and QUIT ignored.
  ff_run
  ff_code=$?
  ff_on_signals ''
  # Before the end is told: the client may hang up at once, and that must not end what the command left behind on purpose.
  if [ "$ff_stays" ]; then
    exec 3<&-
  else
    kill -VTALRM "$ff_job"
    wait "$ff_job"
  fi
  ff_say "exit $ff_code"
  [ -z "$ff_stays" ] || ff_stay
  exit "$ff_code"
}

# Nothing of the run is kept but the session, for as long as its watcher is the warden.
ff_stay() {
  exec 6<&- 7<&-
  cd /
  wait "$ff_job"
}
