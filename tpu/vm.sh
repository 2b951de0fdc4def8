#!/usr/bin/env bash
# Trains on Cloud TPU VMs, through gcloud: tpu/vm.sh VERB NAME [options] [-- FILE [its options]]
#
# Verbs
#   cost      what the slices cost, from tpu/data/prices.tsv
#   create    ask for the slices (a queued resource) and wait until they are there
#   install   send the sources to every VM and install jaxdl[tpu]
#   run       start `jaxdl train FILE --run-dir DIR ...` on every VM; it lives on when you leave
#   logs      the log of one VM; --follow goes on
#   status    the state of the request and of the job on every VM
#   watch     all of it: create, install, run, and after a preemption again, until the run is done
#   stop      SIGTERM on every VM: jaxdl saves, and goes on when it is started again
#   collect   copy the run folder here, into --to (default: runs/NAME)
#   delete    delete the VMs and the request
# Each may be repeated: what is done already is found and left as it is.
# Machine
#   --slice v5e-8          a name in tpu/data/slices.tsv
#   --slices 1             how many slices, joined by the data-centre network
#   --zone us-west4-a      --project ID (default: gcloud's own)
#   --spot | --reserved    default: on demand
#   --runtime VERSION      default: by the chip, tpu/data/runtimes.tsv
#   --create-flag FLAG     one more flag for gcloud's create, such as --create-flag=--internal-ips
#   --ssh-flag FLAG        --internal-ip or --tunnel-through-iap, for VMs without a public address
# Run
#   --nfs HOST:/SHARE      storage that every VM reaches, at /mnt/jaxdl (Filestore, or any NFS)
#   --bucket BUCKET        the same by Cloud Storage FUSE; read docs/launch.md first
#   --local                the VM's own disk: one VM only, and gone with it
#   --run-dir DIR          absolute, or relative to the storage (default: runs/NAME)
#   --env NAME[=VALUE]     a variable for the job, without VALUE from here; sent as a file, never printed
#   --source FOLDER        a git checkout of jaxdl with your files (default: this one)
#   --restarts 20          how often watch starts a run again
#   --delete-when-done     watch deletes the VMs after the run
# Other
#   --dry-run              print every command, run none        --yes   ask nothing
#   --node 0 --worker 0    for logs    --follow    --to FOLDER   --poll 30 (seconds)   --no-wait

set -euo pipefail

TPU_DIR=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
REPOSITORY=$(dirname -- "$TPU_DIR")
# shellcheck source-path=SCRIPTDIR
source "$TPU_DIR/launch/commands.sh"
# shellcheck source-path=SCRIPTDIR
source "$TPU_DIR/launch/slices.sh"
# shellcheck source-path=SCRIPTDIR
source "$TPU_DIR/launch/queued.sh"
# shellcheck source-path=SCRIPTDIR
source "$TPU_DIR/launch/jobs.sh"

VALUES='slice slices zone project runtime create-flag ssh-flag nfs bucket run-dir env source restarts node worker to poll'
FLAGS='spot reserved local delete-when-done dry-run yes follow no-wait'
REMEMBERED='slice slices zone project runtime spot reserved nfs bucket local run-dir ssh-flag'
ON_WORKER=jaxdl-on-worker.sh

# What create was told is the default of the later verbs.
recall_settings() {
  local key value
  [[ -e $STAGE/settings ]] || return 0
  while IFS='=' read -r key value; do
    [[ " $REMEMBERED " == *" $key "* ]] || continue
    case $key in
      spot | reserved) [[ -z ${OPT[spot]:-}${OPT[reserved]:-} ]] || continue ;;
      nfs | bucket | local) [[ -z ${OPT[nfs]:-}${OPT[bucket]:-}${OPT[local]:-} ]] || continue ;;
    esac
    [[ $key != slice && $key != slices ]] || check_same "$key" "$value"
    [[ -n ${OPT[$key]:-} ]] || RECALLED[$key]=$value
  done <"$STAGE/settings"
  for key in "${!RECALLED[@]}"; do OPT[$key]=${RECALLED[$key]}; done
}

# A request keeps its shape: with another one the VMs would be miscounted.
check_same() {
  [[ -z ${OPT[$1]:-} || ${OPT[$1]} == "$2" ]] ||
    fail "$NAME was created with --$1 $2" "--$1 $2, or nothing" "take another NAME, or delete this one first"
}

remember_settings() {
  local key
  if dry; then return; fi
  make_stage
  for key in $REMEMBERED; do
    [[ -z ${OPT[$key]:-} ]] || printf '%s=%s\n' "$key" "${OPT[$key]}"
  done >"$STAGE/settings"
}

prepare() {
  declare -gA RECALLED=()
  STARTED=''
  check_name "$NAME" 49
  find_stage vm
  recall_settings
  : "${OPT[slices]:=1}" "${OPT[poll]:=30}" "${OPT[restarts]:=20}" "${OPT[run-dir]:=runs/$NAME}"
  check_whole slices 1 && check_whole poll 0 && check_whole restarts 0
  OPT[bucket]=${OPT[bucket]:-}
  OPT[bucket]=${OPT[bucket]#gs://}
  SLICES=$((10#${OPT[slices]})) RESTART_LIMIT=$((10#${OPT[restarts]}))
  need_option zone us-west4-a
  need_option slice v5e-8
  [[ ${OPT[zone]} =~ ^[a-z]+-[a-z]+[0-9]+-[a-z0-9]+$ ]] ||
    fail "$(quoted_word "${OPT[zone]}") is no zone" "such as us-west4-a" "see docs.cloud.google.com/tpu/docs/regions-zones"
  [[ -z ${OPT[spot]:-} || -z ${OPT[reserved]:-} ]] || fail "--spot and --reserved" "one of them" "leave one out"
  find_slice "${OPT[slice]}"
  find_runtime
  VMS=$((HOSTS * SLICES))
}

check_storage() {
  local given=0 each
  for each in nfs bucket local; do [[ -z ${OPT[$each]:-} ]] || given=$((given + 1)); done
  ((given == 1)) || fail "there are $given of --nfs, --bucket and --local" "one of them" \
    "give --nfs HOST:/SHARE, so that the run outlives the VMs"
  [[ -z ${OPT[local]:-} || $VMS == 1 ]] ||
    fail "--local with $VMS VMs" "storage that all of them reach: every VM writes its part of a checkpoint" "give --nfs or --bucket"
  [[ -z ${OPT[nfs]:-} || ${OPT[nfs]} =~ ^[A-Za-z0-9][A-Za-z0-9.-]*:/ ]] ||
    fail "--nfs $(quoted_word "${OPT[nfs]}")" "HOST:/SHARE" "see the file share's page for both"
  [[ -z ${OPT[bucket]} || ${OPT[bucket]} =~ ^[a-z0-9][a-z0-9._-]{2,62}$ ]] ||
    fail "--bucket $(quoted_word "${OPT[bucket]}")" "the name of a bucket, 3 letters or more, without folders" "put folders into --run-dir"
  [[ "/${OPT[run-dir]}/" != */../* ]] || fail "--run-dir has .. in it" "a plain path" "write it out"
}

# Runs one line in the shell of VMs. The lines are constants of this file.
remote() {
  local nodes=$1 workers=$2 line=$3
  queued ssh "$NAME" "--node=$nodes" "--worker=$workers" "--command=$line"
  [[ $workers != all ]] || COMMAND+=(--batch-size=all)
  [[ -z ${OPT[ssh-flag]:-} ]] || COMMAND+=("${OPT[ssh-flag]}")
}

# Copies files into the home folder of every VM.
send() {
  queued scp "$@" "$NAME:" --node=all --worker=all --batch-size=all
  [[ -z ${OPT[ssh-flag]:-} ]] || COMMAND+=("${OPT[ssh-flag]}")
  call "${COMMAND[@]}" || fail "files did not reach every VM" "ssh to all $VMS of them" \
    "run ssh-add ~/.ssh/google_compute_engine; try again; without a public address: --ssh-flag=--tunnel-through-iap" 1
}

do_install() {
  make_stage
  if ! dry; then
    [[ -n ${PACKED:-} ]] || pack_sources
    PACKED=yes
    cp -- "$TPU_DIR/on_worker.sh" "$STAGE/$ON_WORKER"
  fi
  send "$STAGE/$ON_WORKER" "$STAGE/jaxdl-source.tgz"
  remote all all "bash $ON_WORKER install"
  call "${COMMAND[@]}" || fail "the installation failed on a VM" "jaxdl[tpu] on all $VMS" "read the lines above, then the same again" 1
}

write_job() {
  local path=${OPT[run-dir]}
  [[ -n ${OPT[local]:-} || $path == /* ]] || path=/mnt/jaxdl/$path
  printf 'STORAGE_KIND=%s\n' "$(if [[ -n ${OPT[nfs]:-} ]]; then echo nfs; elif [[ -n ${OPT[bucket]} ]]; then echo bucket; else echo local; fi)"
  printf 'STORAGE=%s\n' "$(quoted_word "${OPT[nfs]:-${OPT[bucket]}}")"
  printf 'RUN_DIR=%s\n' "$(quoted_word "$path")"
  array_line TRAIN "${ARGS[@]}"
}

# Many VMs: jaxdl joins them by jaxdl.initialize(), which finds Cloud TPU by itself.
do_run() {
  local environment
  environment=$(write_environment)
  make_stage
  if ! dry; then
    trap 'rm -f -- "$STAGE/jaxdl-env.sh"' EXIT
    write_job >"$STAGE/jaxdl-job.sh"
    (umask 077 && {
      if ((VMS > 1)); then printf 'export JAXDL_DISTRIBUTED=auto\n'; fi
      printf '%s\n' "$environment"
    } >"$STAGE/jaxdl-env.sh")
  fi
  send "$STAGE/jaxdl-job.sh" "$STAGE/jaxdl-env.sh"
  dry || rm -f -- "$STAGE/jaxdl-env.sh"
  remote all all "bash $ON_WORKER start"
  call "${COMMAND[@]}" || fail "the run did not start on every VM" "a start on all $VMS" "read the lines above; tpu/vm.sh logs $NAME" 1
}

do_stop() {
  remote all all "bash $ON_WORKER stop"
  call "${COMMAND[@]}" || note "a VM did not answer"
}

do_logs() {
  local line="LINES=200 bash $ON_WORKER log"
  if [[ ${OPT[follow]:-} == yes ]]; then line="FOLLOW=yes $line"; fi
  remote "${OPT[node]:-0}" "${OPT[worker]:-0}" "$line"
  call "${COMMAND[@]}"
}

do_create() {
  check_storage_if_given
  ensure_requested
  remember_settings
  [[ ${OPT[no-wait]:-} == yes ]] || wait_active ||
    fail "$NAME is $STATE" "ACTIVE" "run create again; gcloud compute tpus queued-resources describe says why" 1
}

check_storage_if_given() {
  [[ -z ${OPT[nfs]:-}${OPT[bucket]:-}${OPT[local]:-} ]] || check_storage
}

# Through the bucket when there is one: it works when the VMs are gone.
do_collect() {
  local to=${OPT[to]:-runs/$NAME}
  [[ $to == /* || $to == ./* ]] || to=./$to
  dry || mkdir -p -- "$to"
  if [[ -n ${OPT[bucket]:-} && ${OPT[run-dir]} != /* ]]; then
    call gcloud storage rsync "gs://${OPT[bucket]}/${OPT[run-dir]}" "$to" --recursive
  else
    queued scp "$NAME:jaxdl-launch/run" "$to" --recurse --node=0 --worker=0
    [[ -z ${OPT[ssh-flag]:-} ]] || COMMAND+=("${OPT[ssh-flag]}")
    call "${COMMAND[@]}" || fail "the run folder was not copied" "VMs that exist, and a run that was started" "see tpu/vm.sh status $NAME" 1
  fi
  note "collected into $to"
}

do_delete() {
  find_state ACTIVE
  if [[ $STATE == ABSENT ]]; then
    note "$NAME is gone already"
  else
    remove_and_wait
    note "$NAME is gone"
  fi
  dry || rm -rf -- "$STAGE"
}

do_status() {
  find_state ACTIVE
  printf '%s: %s\n' "$NAME" "$STATE" >&2
  [[ $STATE == ACTIVE ]] || return 0
  read_statuses
  note "$VMS VMs: $(describe_statuses)"
}

# shellcheck source-path=SCRIPTDIR
source "$TPU_DIR/launch/watching.sh"

main() {
  local verb=${1:-}
  case $verb in
    '' | -h | --help | help) show_help "${BASH_SOURCE[0]}" && return ;;
    cost | create | install | run | logs | status | watch | stop | collect | delete) shift ;;
    *) fail "there is no verb $(quoted_word "$verb")" "cost, create, install, run, logs, status, watch, stop, collect or delete" "see --help" ;;
  esac
  [[ " $* " != *' --help '* ]] || { show_help "${BASH_SOURCE[0]}" && return; }
  parse_options "$VALUES" "$FLAGS" "$@"
  prepare
  if [[ $verb == run || $verb == watch ]]; then check_training && check_storage; fi
  [[ $verb == cost ]] || need_program gcloud "install the Google Cloud CLI: docs.cloud.google.com/sdk/docs/install"
  case $verb in
    cost) show_cost "${OPT[zone]}" ;;
    *) "do_$verb" ;;
  esac
}

main "$@"
