# shellcheck shell=bash
# A run that is kept going: what every VM says of the job, and what is done about it.
# Used by: vm.sh. Needs: commands.sh, queued.sh, NAME, and vm.sh's remote, do_install, do_run, do_stop.

# Counts what the VMs say. A VM without the script has no job yet; one that does not answer is not seen.
read_statuses() {
  local line code
  declare -gA SAID=([running]=0 [done]=0 [saved]=0 [lost]=0 [never]=0 [failed]=0)
  SEEN=0 CODES=''
  remote all all "if test -e $ON_WORKER; then bash $ON_WORKER status; else echo jaxdl-status never; fi"
  ask "$(assumed_statuses)" "${COMMAND[@]}" || true
  while read -r line; do
    SEEN=$((SEEN + 1))
    case $line in
      *running) count running ;;
      *never) count never ;;
      *lost) count lost ;;
      *'exited 0') count 'done' ;;
      *'exited 75') count saved ;;
      *)
        code=${line##* }
        count failed
        [[ " $CODES " == *" $code "* ]] || CODES+="${CODES:+ }$code"
        ;;
    esac
  done < <(grep -oE 'jaxdl-status (running|lost|never|exited [0-9]+)' <<<"$ANSWER")
}

# What a dry run takes the VMs to say: nothing was started, then everything is done.
assumed_statuses() {
  local each
  for ((each = 0; each < VMS; each++)); do
    if [[ -n $STARTED ]]; then echo 'jaxdl-status exited 0'; else echo 'jaxdl-status never'; fi
  done
}

count() { SAID[$1]=$((SAID[$1] + 1)); }

describe_statuses() {
  local each text=''
  for each in running 'done' saved lost never failed; do
    ((SAID[$each] == 0)) || text+="${text:+, }${SAID[$each]} $each"
  done
  if [[ -n $CODES ]]; then text+=" (exit code $CODES)"; fi
  if ((SEEN < VMS)); then text+="${text:+, }$((VMS - SEEN)) without an answer"; fi
  printf '%s' "$text"
}

# One more start, or the end of patience.
spend_restart() {
  RESTARTS=$((RESTARTS + 1))
  ((RESTARTS <= RESTART_LIMIT)) ||
    fail "$1, and the run was started again ${OPT[restarts]} times" "a run that gets on" \
      "see tpu/vm.sh logs $NAME; --restarts N allows more. The VMs exist still, and cost" 1
  note "$1: starting again ($RESTARTS of ${OPT[restarts]}), in the same run folder"
}

# A job that failed by itself: nothing is gained by starting it again. Unless the slices are going away.
give_up_on_failure() {
  pause
  find_state ACTIVE
  if [[ $STATE != ACTIVE ]]; then return; fi
  do_logs || true
  fail "the run failed: $(describe_statuses)" "exit code 0, or 75 (saved)" \
    "read the log above (1: the run failed, 2: it cannot be done as asked). The VMs exist still, and cost: tpu/vm.sh delete $NAME" 1
}

# Decides on what the VMs said. Sets NEXT: start, again, wait, failed or done.
decide() {
  if ((SAID[done] == VMS)); then
    NEXT='done'
  elif ((SEEN < VMS)); then
    NEXT=silent
  elif ((SAID[never] == VMS)); then
    NEXT=start
  elif ((SAID[saved] + SAID[lost] + SAID[never] > 0)); then
    NEXT=again
  elif ((SAID[failed] > 0)); then
    NEXT=failed
  else
    NEXT='wait'
  fi
}

do_watch() {
  local silent=0
  RESTARTS=0
  [[ -z ${OPT[delete-when-done]:-} || -z ${OPT[local]:-} ]] ||
    fail "--delete-when-done with --local" "storage that outlives the VMs" "give --nfs or --bucket"
  while true; do
    ensure_requested
    remember_settings
    if [[ $STATE != ACTIVE ]] && ! wait_active; then
      spend_restart "$NAME became $STATE"
      continue
    fi
    read_statuses
    decide
    note "$NAME: $(describe_statuses)"
    [[ $NEXT == silent ]] || silent=0
    case $NEXT in
      'done') break ;;
      wait) pause ;;
      silent)
        silent=$((silent + 1))
        ((silent < 10)) || fail "$((VMS - SEEN)) of $VMS VMs do not answer" "ssh to all of them" \
          "run ssh-add ~/.ssh/google_compute_engine, then watch again; or delete and watch" 1
        pause
        ;;
      start)
        [[ -z $STARTED ]] || spend_restart "the VMs are new (preempted?)"
        start_everywhere
        ;;
      again)
        spend_restart "$(describe_statuses)"
        do_stop
        start_everywhere
        ;;
      failed) give_up_on_failure ;;
    esac
  done
  note "$NAME: the run is done"
  [[ -z ${OPT[delete-when-done]:-} ]] || do_delete
}

start_everywhere() {
  STARTED=yes
  do_install
  do_run
  pause
}
