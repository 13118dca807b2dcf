# The durable run, in POSIX sh: what a command prints, and how it ends, is kept on the host until somebody has it, so that neither
# the connection nor the one who follows it must live as long as the command. executors/durable.py sends this behind lifeline.sh,
# whose ff_main and ff_watch it replaces, and says what the verbs and the marks mean.
#
# A run has a few files in ~/.fleetflow/spool, whose names begin with its id:
#
#   .claim         "PID TICK BOOT" of main. Who makes it (O_EXCL, by set -C) is the only one who may start the run. "fenced": nobody
#                  may any more.
#   .go            "run" or "void". Who makes it (O_EXCL) has started the run, or has fenced it off.
#   .out .err      what the command printed; a hole is punched into what grows too long, and .cut.out, .cut.err say from where to where
#   .rc            "exit CODE": main saw the end
#   .why           "canceled", "timed_out", "abandoned", "full", "killed": why it was ended from here
#                  (both have room for their line from the start: a disk that is full by then would not take it)
#   .beat.PID      changes with every sign of life of whoever is attached by session PID, and says "gone" at its end
#   .word.PID      what that one asks for: "cancel", "timeout", "ack", "eof"
#
# When all is known elsewhere, ~/.fleetflow/acked/ID is made, a tombstone against a late start, and then these are removed. Tombstones
# have a folder of their own: there may be many thousands, and the spool is read again and again.
#
# A line counts when it is whole. Processes:
#
#   main           claims, prepares, runs the command, writes .rc
#   watcher        follows the output, and ends it all when asked to, or when nobody has been there for too long
#   reader         reads what the one attached says
#   flusher        copies what was printed to the one attached, who may be slow
#
# The session of a verb other than `start` is its own watcher, with a reader and a flusher.

# The start tick of a live process, in ff_born; a zombie is dead.
ff_is_alive() {
  ff_born=
  [ "$1" ] && read -r ff_line <"/proc/$1/stat" || return 1
  set -- ${ff_line##*) }
  case $1 in [ZX]) return 1 ;; esac
  shift 19
  ff_born=$1
}

# The first word of a file's line in ff_first, the rest in ff_rest; fails unless the line is whole.
ff_get() {
  ff_first= ff_rest=
  read -r ff_first ff_rest <"$ff_run.$1"
}

# Makes a file, with one line if there is one, unless it is there.
ff_make() {
  set -C
  printf "${2+%s\n}" "${2-}" >"$ff_run.$1"
  ff_made=$?
  set +C
  return "$ff_made"
}

# Room for a line that is still to come, which a disk that has become full would not take.
ff_reserve() {
  printf '%24s' '' >"$ff_run.$1"
}

# Writes that line, unless it is there.
ff_fill_in() {
  ff_get "$1" || printf '%s\n' "$2" 1<>"$ff_run.$1"
}

# Whether main has told its end. These two lines are written over spaces, and who reads them in that moment sees a part of them.
ff_has_ended() {
  ff_get rc && [ "$ff_first" = exit ]
}

# Whether somebody has decided to end it, and why.
ff_has_why() {
  ff_get why && case $ff_first in canceled | timed_out | abandoned | full | killed) ;; *) return 1 ;; esac
}

ff_now() {
  read -r ff_time ff_line </proc/uptime
  ff_time=${ff_time%.*}
}

# The folder must be ours alone: whoever can write into it decides what runs. Not everybody has a home.
ff_open() {
  [ -r /proc/self/stat ] && read -r ff_boot </proc/sys/kernel/random/boot_id || ff_refuse proc
  if [ "$HOME" ] && [ -O "$HOME" ]; then ff_top=$HOME/.fleetflow; else ff_top=/var/tmp/.fleetflow-$(id -u); fi
  ff_folder=$ff_top/spool ff_tombs=$ff_top/acked
  [ -d "$ff_folder" ] && [ -d "$ff_tombs" ] || (umask 077; mkdir -p "$ff_folder" "$ff_tombs") || ff_refuse folder
  for ff_file in "$ff_top" "$ff_folder" "$ff_tombs"; do
    [ -O "$ff_file" ] && ! [ -L "$ff_file" ] || ff_refuse folder
  done
  # Only a program can tell the mode, and a program takes a millisecond: asked at the first run on a host alone.
  [ -z "$ff_tidies" ] || [ -z "$(find "$ff_top" "$ff_folder" "$ff_tombs" -prune \( -perm -020 -o -perm -002 \))" ] || ff_refuse folder
  ff_run=$ff_folder/$ff_id
  ff_tomb=$ff_tombs/$ff_id
  ff_words=$ff_run.word.$$
}

# What is known of the run, in ff_state.
ff_look() {
  ff_state=acked
  ! [ -e "$ff_tomb" ] || return 0
  ff_state=absent
  [ -e "$ff_run.claim" ] || return 0
  ff_get claim
  ff_state=$ff_first
  case $ff_state in fenced) ff_state=void; return ;; esac
  ff_group=$ff_first
  set -- $ff_rest
  ff_state=claimed
  if ff_has_ended; then
    ff_state="exit $ff_rest"
  elif ff_get go || [ -e "$ff_run.go" ]; then
    ff_ask_main "$ff_first" "$1" "$2"
  fi
}

# The run was started or fenced off ($1), by the process that was born at tick $2 after boot $3, and has not told its end.
ff_ask_main() {
  if [ "$1" = void ]; then
    ff_state=void
  elif [ "$3" != "$ff_boot" ]; then
    ff_state='lost rebooted'
  elif ff_is_alive "$ff_group" && [ "$ff_born" = "$2" ]; then
    ff_state=running
    ! ff_has_why || ff_state=ending
  elif ff_has_ended; then
    ff_state="exit $ff_rest" # it came between our two looks
  elif [ "$1" != run ]; then
    ff_state=void # main died before it had written that it starts
  elif ff_has_why && [ "$ff_first" != killed ]; then
    ff_state="ended $ff_first"
  else
    ff_state='lost killed'
  fi
}

ff_await_go() {
  until [ "$ff_line" = go ]; do read -r ff_line <&3 && [ -z "${ff_line#go}" ] || return 1; done
}

ff_main() {
  ff_on_signals ''
  exec 3<&0 4>&2 </dev/null 2>/dev/null
  ff_line= ff_watcher= ff_sleep= ff_reader= ff_flush_out= ff_flush_err= ff_flush_end= ff_order= ff_told= ff_mute= ff_acked= ff_at_out= ff_at_err=
  ff_open
  [ "$ff_verb" != start ] || ff_start
  ff_say ready
  ff_await_go || exit 1
  "ff_do_$ff_verb"
  ff_say "$ff_state"
  exit 0
}

# Nothing has started, so nothing need be remembered.
ff_give_back() {
  rm -f "$ff_run.claim" "$ff_run.out" "$ff_run.err" "$ff_run.rc" "$ff_run.why"
  [ -z "$1" ] || ff_refuse "$1"
  exit 1
}

ff_start() {
  [ -z "$ff_cwd" ] || CDPATH= cd -- "$ff_cwd" >&2 || ff_refuse cwd
  ff_prepare # before the claim: what it refuses leaves nothing behind
  ff_is_alive $$
  # Empty at first: so a claim that cannot be written is told from that of somebody who has not written it yet.
  if ! ff_make claim; then
    ! [ -e "$ff_run.claim" ] || ff_refuse taken
    ff_refuse folder
  fi
  ! [ -e "$ff_tomb" ] || ff_give_back taken # looked for behind the claim: a tombstone is made before the claim is removed
  printf '%s\n' "$$ $ff_born $ff_boot" >>"$ff_run.claim" || ff_give_back folder
  printf '' >"$ff_run.out" && printf '' >"$ff_run.err" && ff_reserve rc && ff_reserve why || ff_give_back folder
  exec 5>>"$ff_run.out" 8>>"$ff_run.err"
  ff_say ready
  ff_await_go || ff_give_back
  if ! ff_make go run; then
    ff_say void
    exit 1
  fi
  [ -z "$ff_tidies" ] || ff_tidy
  trap '' PROF # until the watcher listens; it looks for .rc before it waits
  ff_watch 5>&- 6<&- 7<&- 8>&- &
  ff_job=$!
  trap - PROF
  ff_on_signals :
  # In the foreground: in the background the command would start with INT and QUIT ignored.
  ff_run
  ff_code=$?
  ff_on_signals ''
  ff_fill_in rc "exit $ff_code"
  kill -PROF "$ff_job"
  wait "$ff_job"
  exit "$ff_code"
}

# Tombstones outlive every lease by far.
ff_tidy() {
  find "$ff_folder" "$ff_tombs" -type f -mtime +7 -exec rm -f {} + 3<&- 4>&- 5>&- 7<&- 8>&- >/dev/null &
}

# After this the run cannot start any more, if it has not yet; and of what was killed half way nothing is left.
ff_do_fence() {
  if ! [ -e "$ff_tomb" ]; then
    ff_make claim fenced
    ff_make go void
  fi
  ff_look
  case $ff_state in 'lost killed' | ended*) ff_kill_marked ;; esac
}

ff_do_state() {
  ff_look
}

ff_do_attach() {
  ff_do_fence
  case $ff_state in running | ending | exit* | ended*) ;; *) return ;; esac
  exec 8<"$ff_run.out" 9<"$ff_run.err"
  ff_at_out=$ff_from_out ff_at_err=$ff_from_err
  ff_rejoin out "$ff_from_out" && ff_at_out=$ff_first
  ff_rejoin err "$ff_from_err" >&4 && ff_at_err=$ff_first
  ff_follow
}

# Before the hole in stream $1 there may be something that the one who comes at offset $2 has not seen. The hole's end in ff_first.
ff_rejoin() {
  ff_get "cut.$1" && [ "$2" -lt "$ff_first" ] || return 1
  if [ "$2" -lt "$ff_rest" ]; then
    ff_say_at "$2"
    tail -c "+$(($2 + 1))" <"$ff_run.$1" | head -c $((ff_rest - $2))
  fi
}

ff_do_cancel() {
  ff_do_fence
  ff_asked=0
  while [ "$ff_state" = running ] || [ "$ff_state" = ending ]; do
    ff_pass_on
    sleep 0.2 || sleep 1
    ff_look
  done
}

ff_do_ack() {
  ff_look
  case $ff_state in
    absent | acked | running | ending) ;;
    *) ff_forget ;;
  esac
}

ff_bury() {
  printf '' >"$ff_tomb"
}

ff_forget() {
  if ! ff_bury; then
    rm -f "$ff_run.out" "$ff_run.err" # a full disk may have no room for a name
    ff_bury || return
  fi
  rm -f "$ff_run".*
  ff_state=acked
}

ff_watch() {
  ff_group=$$
  exec 8<"$ff_run.out" 9<"$ff_run.err"
  ff_follow
}

# Follows the run until all of it is known to the one attached, or nobody is and it needs no watcher.
ff_follow() {
  read -r ff_watcher ff_line </proc/self/stat
  trap 'ff_woken=1' PROF
  trap 'ff_heard=1' URG
  echo >"$ff_words" # not empty: what is appended then finds room on a full disk
  echo 0 >"$ff_run.beat.$$"
  ff_hear <&3 3<&- 4>&- 8<&- 9<&- >/dev/null &
  ff_reader=$!
  exec 3<"$ff_words"
  ff_now
  ff_began=$ff_time ff_since=$ff_time ff_beats= ff_heard= ff_woken= ff_ticked= ff_pause=0.2 ff_ticks=0 ff_asked=0
  while :; do
    ff_listen
    ff_look
    ff_decide
    ff_flush
    ! ff_is_over || break
    ff_nap
    ff_now
  done
  kill -9 $ff_reader $ff_sleep
  ff_is_alive "$ff_flush_out" && ff_break_off "$ff_flush_out"
  ff_is_alive "$ff_flush_err" && ff_break_off "$ff_flush_err"
  ff_is_alive "$ff_flush_end" && ff_break_off "$ff_flush_end"
  wait
  [ "$ff_acked" ] || rm -f "$ff_words" "$ff_run.beat.$$"
  exit 0
}

ff_is_over() {
  if [ "$ff_acked" ]; then
    ff_forget
    return 0
  fi
  if [ "$ff_group" = $$ ]; then
    case $ff_state in running | ending) return 1 ;; esac
  fi
  # Somebody else has had it forgotten, and the file in which our own reader's words come.
  [ "$ff_state" != acked ] || ff_is_alive "$ff_flush_end" || return 0
  [ "$ff_mute" ] || { [ "$ff_told" ] && [ $((ff_time - ff_since)) -gt "$ff_beat" ]; }
}

# Waits for a tick or a signal; one that comes just before `wait` is heard a tick later. A sleep that fails knows no fractions.
ff_nap() {
  ff_ticked=
  if [ -z "$ff_sleep" ]; then
    sleep "$ff_pause" 3<&- 4>&- 8<&- 9<&- >/dev/null &
    ff_sleep=$!
  fi
  [ "$ff_woken" ] || wait "$ff_sleep"
  case $? in
    0) [ "$ff_woken" ] || ff_ticks=$((ff_ticks + 1)) ff_ticked=1 ff_sleep= ;;
    1 | 2) ff_pause=1 ff_sleep= ;;
    127 | 137) ff_sleep= ;;
    # bash forgets that a child has ended when a signal comes just then, and would wait for it for ever.
    *) ff_is_alive "$ff_sleep" || ff_ticks=$((ff_ticks + 1)) ff_ticked=1 ff_sleep= ;;
  esac
  ff_woken=
  [ "$ff_ticks" -lt 25 ] || ff_pause=1
}

# Nothing may end the reader but KILL and the end of what it reads. The beat of its own session needs no disk, which may be full.
ff_hear() {
  trap '' PROF URG
  ff_count=0
  while read -r ff_line; do
    ff_count=$((ff_count + 1))
    echo "$ff_count" >"$ff_run.beat.$$"
    kill -URG "$ff_watcher"
    [ -z "$ff_line" ] || ff_pass "$ff_line"
  done
  echo gone >"$ff_run.beat.$$"
  ff_pass eof
}

ff_pass() {
  echo "$1" >>"$ff_words"
  kill -PROF "$ff_watcher"
}

# Signs of life of everybody attached, and what the one attached here asks for.
ff_listen() {
  ff_lives= ff_gone= ff_there= ff_others=
  for ff_file in "$ff_run".beat.*; do
    read -r ff_line <"$ff_file" || continue
    ff_lives=$ff_lives$ff_line:
    case $ff_line:${ff_file##*.} in
      gone:*) ff_gone=1 ;;
      *:$$) ff_there=1 ;;
      *) ff_there=1 ff_others=1 ;;
    esac
  done
  [ -z "$ff_heard" ] && [ "$ff_lives" = "$ff_beats" ] || ff_since=$ff_time
  ff_heard= ff_beats=$ff_lives
  while read -r ff_line <&3; do
    case $ff_line in
      cancel) ff_order=canceled ;;
      timeout) ff_order=timed_out ;;
      ack) [ -z "$ff_told" ] || ff_acked=1 ;;
      eof) ff_mute=1 ;;
    esac
  done
}

ff_decide() {
  case $ff_state in
    running)
      [ "$ff_group" != $$ ] || ff_judge
      [ -z "$ff_order" ] || ff_carry_out
      ;;
    'lost killed') # nobody can say any more how the command ends
      ff_fill_in why killed
      if [ "$ff_group" = $$ ]; then ff_end_all; else ff_kill_marked; fi
      ;;
  esac
}

# What is ended without being asked: a run that takes too long, that nobody follows.
ff_judge() {
  ff_quiet=$((ff_time - ff_since))
  if [ "$ff_timeout" ] && [ $((ff_time - ff_began)) -ge "$ff_timeout" ]; then
    ff_order=${ff_order:-timed_out}
  elif [ "$ff_linger" ] && [ "$ff_quiet" -ge $((ff_linger + ff_beat)) ]; then
    ff_order=${ff_order:-abandoned}
  elif [ "$ff_linger" ] && [ "$ff_gone" ] && [ -z "$ff_there" ] && [ "$ff_quiet" -ge "$ff_linger" ]; then
    ff_order=${ff_order:-abandoned}
  fi
}

ff_carry_out() {
  if [ "$ff_group" = $$ ]; then
    ff_fill_in why "$ff_order"
    ff_end_all
    ff_look
  else
    ff_pass_on
  fi
}

# The run's own watcher is asked first, and has 3 s.
ff_pass_on() {
  ff_asked=$((ff_asked + 1))
  case $ff_asked in
    1) case $ff_order in timed_out) echo timeout ;; *) echo cancel ;; esac >>"$ff_run.word.$ff_group" ;;
    15)
      ff_fill_in why "${ff_order:-canceled}"
      ff_end_all
      ;;
  esac
}

# What the group still has in ff_found, but for the watcher and what that has started.
ff_find_members() {
  ff_found= ff_lines=$(grep -hs ") [^ZX] [0-9]* $ff_group " /proc/[0-9]*/stat)
  while read -r ff_line; do
    set -- "${ff_line%% *}" ${ff_line##*) }
    case " $ff_watcher $ff_reader $ff_flush_out $ff_flush_err " in *" $1 "* | *" $3 "*) ;; *) ff_found="$ff_found$1 " ;; esac
  done <<END
$ff_lines
END
}

ff_left() {
  ff_find_members
  [ "${ff_found%"$ff_group "}" ] || grep -qs "$ff_marker" /proc/[0-9]*/environ
}

# Ends everything but the watcher. Main is stopped first: should somebody kill us half way, it must not report an end that nobody
# has seen.
ff_end_all() {
  kill -STOP "$ff_group"
  ff_find_members
  ff_seen=" $ff_found"
  kill -TERM "-$ff_group"
  ff_sweep TERM
  ff_waited=0
  while ff_left && [ "$ff_waited" -lt "$ff_grace_ticks" ]; do
    sleep 0.2 || sleep 1
    ff_waited=$((ff_waited + 1))
  done
  while ff_kill_marked; ff_find_members; [ "$ff_found" ]; do
    kill -KILL $ff_found
    sleep 0.05 || sleep 1
  done
}

ff_kill_marked() {
  while grep -qs "$ff_marker" /proc/[0-9]*/environ; do
    ff_seen=' '
    ff_sweep KILL
    sleep 0.05 || sleep 1
  done
}

# Copies what is new, tick by tick. Once the run has ended and nothing is under way any more, the last bytes and the end are told.
ff_flush() {
  case $ff_state in
    running | ending)
      [ "$ff_ticked" ] || return 0
      ff_trim
      ;;
  esac
  [ -z "$ff_told$ff_mute" ] || return 0
  ff_is_alive "$ff_flush_out" && ff_out_flows=1 || ff_out_flows=
  ff_is_alive "$ff_flush_err" && ff_err_flows=1 || ff_err_flows=
  case $ff_state in
    running | ending)
      if [ -z "$ff_out_flows" ] && [ "$ff_at_out" -o -s "$ff_run.out" ]; then
        ff_copy_on 8 "$ff_at_out" &
        ff_flush_out=$! ff_at_out=
      fi
      if [ -z "$ff_err_flows" ] && [ "$ff_at_err" -o -s "$ff_run.err" ]; then
        ff_copy_on 9 "$ff_at_err" >&4 &
        ff_flush_err=$! ff_at_err=
      fi
      ;;
    *)
      [ -z "$ff_out_flows$ff_err_flows" ] || return 0
      # However long it has been silent there, the last words have their time.
      ff_now
      ff_told=1 ff_since=$ff_time
      ff_flush_last &
      ff_flush_end=$!
      ;;
  esac
}

ff_flush_last() {
  [ -z "$ff_at_out" ] && ! [ -s "$ff_run.out" ] || ff_copy 8 "$ff_at_out"
  [ -z "$ff_at_err" ] && ! [ -s "$ff_run.err" ] || ff_copy 9 "$ff_at_err" >&4
  ff_say "$ff_state"
}

# From where descriptor $1 stands, or from offset $2 on; tail counts from where it stands.
ff_copy() {
  if [ "$2" ]; then
    read -r ff_line ff_rest <"/proc/self/fdinfo/$1"
    ff_say_at "$2"
    tail -c "+$(($2 - ff_rest + 1))" <&"$1"
  else
    cat <&"$1"
  fi
}

# The end of it may be what the watcher waits for.
ff_copy_on() {
  ff_copy "$@"
  kill -PROF "$ff_watcher"
}

# Breaks off a flusher; what it was about to copy is skipped as well.
ff_break_off() {
  [ "$1" ] || return 0
  set -- "$1" $(grep -ls ") . $1 " /proc/[0-9]*/stat)
  kill -9 "$1"
  shift
  for ff_pid; do
    ff_pid=${ff_pid#/proc/}
    kill -9 "${ff_pid%/*}"
  done
}

ff_say_at() {
  printf '\036%sat %s\n' "$ff_nonce" "$1"
}

# Once a second: a stream that has grown beyond its limit loses its middle. The one attached last sees to it, since whoever is
# reading there must go on behind it.
ff_trim() {
  [ "$ff_group" != $$ ] || [ -z "$ff_others" ] || return 0
  [ "$ff_pause" = 1 ] || [ $((ff_ticks % 5)) = 0 ] || return 0
  if ff_cut out 8; then
    ff_break_off "$ff_flush_out"
    ff_at_out=$ff_skip
  fi
  if ff_cut err 9; then
    ff_break_off "$ff_flush_err"
    ff_at_err=$ff_skip
  fi
}

# Whether the reader of stream $1 by descriptor $2 must go on at ff_skip.
ff_cut() {
  ff_get "cut.$1"
  set -- "$1" "$2" "$(($(wc -c <"$ff_run.$1")))" "${ff_first:-0}"
  [ $(($3 - $4)) -gt "$ff_limit" ] || return 1
  ff_half=$((ff_limit / 2)) ff_skip=$(($3 - ff_limit / 2))
  read -r ff_line ff_rest <"/proc/self/fdinfo/$2"
  echo "$ff_skip $ff_half" >"$ff_run.cut.$1"
  fallocate -p -o "$ff_half" -l "$((ff_skip - ff_half))" "$ff_run.$1" >/dev/null 3<&- || ff_order=${ff_order:-full}
  [ "$ff_rest" -lt "$ff_skip" ]
}
