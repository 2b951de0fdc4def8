# shellcheck shell=bash
# Queued resources of Cloud TPU: their state, how they are made, waited for and deleted.
# The states: docs.cloud.google.com/tpu/docs/queued-resources; the flags: gcloud 528,
# `gcloud compute tpus queued-resources create --help`.
# Used by: vm.sh. Needs: commands.sh, slices.sh, and NAME.

# Sets COMMAND: `gcloud compute tpus queued-resources VERB NAME` with zone and project, then the rest.
queued() {
  local verb=$1
  shift
  COMMAND=(gcloud compute tpus queued-resources "$verb" "$@" --quiet "--zone=${OPT[zone]}")
  [[ -z ${OPT[project]:-} ]] || COMMAND+=("--project=${OPT[project]}")
}

# Sets STATE: one of the API's states, or ABSENT. $1: what a dry run assumes. A network that is away for a
# moment does not end a long watch.
find_state() {
  local tries
  queued describe "$NAME" --format='value(state.state)'
  for tries in 1 2 3 4 5; do
    if ask "${1:-ACTIVE}" "${COMMAND[@]}"; then
      STATE=$(grep -oE '^[A-Z][A-Z_]+$' <<<"$ANSWER" | tail -n 1) ||
        fail "gcloud named no state of $NAME: $(tail -n 1 <<<"$ANSWER")" "a state such as ACTIVE" "run: gcloud components update" 1
      return 0
    elif [[ $ANSWER == *NOT_FOUND* || $ANSWER == *"was not found"* ]]; then
      STATE=ABSENT
      return 0
    elif ((tries < 5)) && [[ $ANSWER =~ UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED|[Cc]onnect|timed\ out|[Nn]ame\ resolution ]]; then
      note "no answer about $NAME, asking again: $(tail -n 1 <<<"$ANSWER")"
      pause
    else
      explain_refusal "$ANSWER"
    fi
  done
}

# An error of gcloud in three parts, with the tool's own last lines.
explain_refusal() {
  local last
  last=$(tail -n 3 <<<"$1" | tr '\n' ' ')
  case $1 in
    *RESOURCE_EXHAUSTED* | *uota*exceeded* | *"uota limit"* | *QUOTA*)
      fail "the quota of the project does not allow it: $last" "quota for $((CHIPS * SLICES)) chips of $CHIP in ${OPT[zone]}" \
        "ask for more under IAM & Admin > Quotas (TPU), or take a smaller slice or another zone" 1 ;;
    *"no more capacity"* | *stockout* | *UNAVAILABLE*)
      fail "the zone has none left: $last" "free chips of $CHIP in ${OPT[zone]}" "try again later, --spot, or another --zone" 1 ;;
    *UNAUTHENTICATED* | *"auth login"*)
      fail "gcloud is not signed in: $last" "an account" "run: gcloud auth login" 1 ;;
    *PERMISSION_DENIED* | *"does not have permission"*)
      fail "the account may not do it: $last" "the role TPU Admin, and the Cloud TPU API enabled" \
        "run: gcloud services enable tpu.googleapis.com; ask the project's owner for roles/tpu.admin" 1 ;;
    *) fail "gcloud refused: $last" "the command to work" "read its words; --dry-run shows the whole command" 1 ;;
  esac
}

# The request. Spot, reserved, or on demand; more than one slice are the nodes NAME-0, NAME-1, ...
request_slices() {
  queued create "$NAME" "--accelerator-type=$ACCELERATOR" "--runtime-version=$RUNTIME"
  if ((SLICES > 1)); then
    COMMAND+=("--node-count=${OPT[slices]}" "--node-prefix=$NAME")
  else
    COMMAND+=("--node-id=$NAME")
  fi
  case $(capacity_kind) in
    spot) COMMAND+=(--spot) ;;
    reserved) COMMAND+=(--reserved) ;;
  esac
  COMMAND+=("${EXTRA[@]}")
  local out
  if dry; then
    call "${COMMAND[@]}"
  elif ! out=$(call "${COMMAND[@]}" 2>&1); then
    # Two creates at once, or one whose answer was lost: the request is there, which is what was asked.
    [[ $out == *ALREADY_EXISTS* || $out == *"already exists"* ]] || explain_refusal "$out"
  fi
  note "requested: $NAME"
}

remove_request() {
  local out
  queued delete "$NAME" --force
  if dry; then
    call "${COMMAND[@]}"
  elif ! out=$(call "${COMMAND[@]}" 2>&1); then
    [[ $out == *NOT_FOUND* || $out == *"was not found"* ]] || explain_refusal "$out"
  fi
}

# Waits until the request and its VMs are gone. A deletion that is under way is not asked for again.
remove_and_wait() {
  [[ $STATE == DELETING || $STATE == SUSPENDING ]] || remove_request
  while find_state ABSENT && [[ $STATE != ABSENT ]]; do
    note "$NAME: $STATE"
    if [[ $STATE == SUSPENDED || $STATE == FAILED ]]; then remove_request; fi
    pause
  done
}

# The cost is shown and asked once; a recreation after a preemption was agreed to with it.
agree_to_cost() {
  [[ -z ${AGREED:-} ]] || return 0
  show_cost "${OPT[zone]}"
  confirm "Create $NAME?"
  AGREED=yes
}

# Brings the request into a state from which it becomes ACTIVE, whatever was done before.
ensure_requested() {
  if [[ -n $STARTED ]]; then find_state ACTIVE; else find_state ABSENT; fi
  case $STATE in
    ABSENT)
      agree_to_cost
      request_slices
      ;;
    FAILED | SUSPENDED | SUSPENDING | DELETING)
      note "$NAME is $STATE: it is deleted and asked for again"
      agree_to_cost
      remove_and_wait
      request_slices
      ;;
    *) note "$NAME is there: $STATE" ;;
  esac
}

# Waits for ACTIVE. 1 when the request was lost meanwhile (preempted, failed or deleted).
wait_active() {
  local before=''
  while find_state ACTIVE; do
    if [[ $STATE != "$before" ]]; then note "$NAME: $STATE"; fi
    before=$STATE
    case $STATE in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDED | SUSPENDING | DELETING | ABSENT) return 1 ;;
    esac
    pause
  done
}
