#!/usr/bin/env bash
# Trains on TPUs of a GKE cluster, through kubectl: tpu/gke.sh VERB NAME [options] [-- FILE [its options]]
#
# Verbs
#   cost         what the slices cost, from tpu/data/prices.tsv
#   image        build the image from tpu/gke/Dockerfile and push it as --image
#   pool         create a node pool for each slice (this is what costs)
#   render       print the JobSet
#   apply        start the run; after a preemption JobSet starts it again in the same run folder
#   status       the JobSet and its pods
#   logs         the log of a pod (--slice-index 0 --worker 0); --follow goes on
#   collect      copy the run folder here, into --to (default: runs/NAME)
#   delete       delete the JobSet
#   delete-pool  delete the node pools
# Each may be repeated: what is done already is found and left as it is.
# Machine
#   --slice v5e-8         a name in tpu/data/slices.tsv; --slices 1
#   --spot | --reservation NAME           default: on demand
#   --cluster NAME --location us-west4 --zone us-west4-a --project ID    for pool and delete-pool
#   --context NAME --namespace default    for kubectl (default: its own)
# Run
#   --image REGISTRY/NAME:TAG
#   --pvc CLAIM           a volume that many pods write (Filestore), at /mnt/jaxdl
#   --nfs HOST:/SHARE     the same from an NFS server
#   --bucket BUCKET       the same by Cloud Storage FUSE; read docs/launch.md first
#   --service-account NAME   the pods' account in the cluster, which the bucket knows
#   --run-dir DIR         absolute, or relative to the storage (default: runs/NAME)
#   --env NAME=VALUE      a variable that anybody may read; --secret NAME: a Kubernetes Secret of variables
#   --root                run as root in the container, where the TPU's device files need it
#   --restarts 3          how often a failure that is no preemption is tried again
# Other
#   --dry-run             print every command, run none        --yes   ask nothing
#   --follow  --to FOLDER  --source FOLDER

set -euo pipefail

TPU_DIR=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
REPOSITORY=$(dirname -- "$TPU_DIR")
# shellcheck source-path=SCRIPTDIR
source "$TPU_DIR/launch/commands.sh"
# shellcheck source-path=SCRIPTDIR
source "$TPU_DIR/launch/slices.sh"
# shellcheck source-path=SCRIPTDIR
source "$TPU_DIR/launch/jobs.sh"
# shellcheck source-path=SCRIPTDIR
source "$TPU_DIR/launch/jobset.sh"

VALUES='slice slices zone location cluster project context namespace image pvc nfs bucket service-account run-dir env secret restarts reservation slice-index worker to source'
FLAGS='spot root dry-run yes follow'

prepare() {
  # The longest name of a pod is NAME-slice-NN-NNN-xxxxx, and a pod's host name has 63 letters.
  check_name "$NAME" 40
  find_stage gke
  : "${OPT[slices]:=1}" "${OPT[restarts]:=3}" "${OPT[run-dir]:=runs/$NAME}" "${OPT[namespace]:=default}"
  : "${OPT[slice-index]:=0}" "${OPT[worker]:=0}"
  check_whole slices 1 && check_whole restarts 0 && check_whole slice-index 0 && check_whole worker 0
  SLICES=$((10#${OPT[slices]}))
  check_kubernetes_names namespace pvc service-account secret reservation cluster
  [[ -z ${OPT[spot]:-} || -z ${OPT[reservation]:-} ]] || fail "--spot and --reservation" "one of them" "leave one out"
  if [[ -n ${OPT[reservation]:-} ]]; then OPT[reserved]=yes; fi
}

check_kubernetes_names() {
  local each
  for each in "$@"; do
    [[ -z ${OPT[$each]:-} || ${OPT[$each]} =~ ^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$ ]] ||
      fail "--$each $(quoted_word "${OPT[$each]}") is no name in Kubernetes" "small letters, digits and dashes" "correct it"
  done
}

need_slice() {
  need_option slice v5e-8
  find_slice "${OPT[slice]}"
  ((SLICES == 1 || HOSTS > 1)) ||
    fail "${OPT[slices]} slices of one VM each" "slices of several VMs: GKE joins no others" "take a larger --slice, or --slices 1"
}

check_storage() {
  local given=0 each
  for each in pvc nfs bucket; do [[ -z ${OPT[$each]:-} ]] || given=$((given + 1)); done
  ((given == 1)) || fail "there are $given of --pvc, --nfs and --bucket" "one of them" \
    "a pod's own disk goes with it: give the storage that the run is to outlive it on"
  OPT[bucket]=${OPT[bucket]:-}
  OPT[bucket]=${OPT[bucket]#gs://}
  [[ -z ${OPT[bucket]} || ${OPT[bucket]} =~ ^[a-z0-9][a-z0-9._-]{2,62}$ ]] ||
    fail "--bucket $(quoted_word "${OPT[bucket]}")" "the name of a bucket, 3 letters or more, without folders" "put folders into --run-dir"
  [[ -z ${OPT[nfs]:-} || ${OPT[nfs]} =~ ^[A-Za-z0-9][A-Za-z0-9.-]*:/ ]] ||
    fail "--nfs $(quoted_word "${OPT[nfs]}")" "HOST:/SHARE" "see the file share's page for both"
  [[ "/${OPT[run-dir]}/" != */../* ]] || fail "--run-dir has .. in it" "a plain path" "write it out"
  RUN_PATH=${OPT[run-dir]}
  [[ $RUN_PATH == /* ]] || RUN_PATH=/mnt/jaxdl/$RUN_PATH
  [[ $RUN_PATH == /mnt/jaxdl/* ]] || fail "--run-dir is not on the storage" "a folder under /mnt/jaxdl" "give a relative one"
}

# Sets COMMAND: kubectl with its context and namespace, then the rest.
kube() {
  COMMAND=(kubectl)
  [[ -z ${OPT[context]:-} ]] || COMMAND+=("--context=${OPT[context]}")
  COMMAND+=("--namespace=${OPT[namespace]}" "$@")
}

explain_kubectl() {
  local last
  last=$(tail -n 3 <<<"$1" | tr '\n' ' ')
  case $1 in
    *'no matches for kind "JobSet"'*) fail "the cluster has no JobSet: $last" "the JobSet controller" \
      "install it: jobset.sigs.k8s.io/docs/installation" 1 ;;
    *Unauthorized* | *"You must be logged in"* | *"connection refused"* | *"was refused"*)
      fail "the cluster does not answer to kubectl: $last" "credentials for it" \
        "run: gcloud container clusters get-credentials CLUSTER --location LOCATION" 1 ;;
    *immutable*) fail "$NAME runs with other settings: $last" "the same settings, or another NAME" \
      "delete it first: tpu/gke.sh delete $NAME (its run folder stays)" 1 ;;
    *) fail "kubectl refused: $last" "the command to work" "read its words; --dry-run shows the whole command" 1 ;;
  esac
}

# A command whose refusal is explained, its own words shown as they are when it works.
kubectl_call() {
  local out
  kube "$@"
  if dry; then
    call "${COMMAND[@]}"
  elif out=$(call "${COMMAND[@]}" 2>&1); then
    [[ -z $out ]] || printf '%s\n' "$out" >&2
  else
    explain_kubectl "$out"
  fi
}

do_render() {
  need_slice && check_training && check_storage
  need_option image REGISTRY/NAME:TAG
  # Optional parts that are not there leave empty lines.
  jobset_manifest | sed '/^ *$/d'
}

do_apply() {
  local manifest
  manifest=$(do_render)
  need_slice
  show_cost "${OPT[zone]:-${OPT[location]:-the region of the cluster}}"
  confirm "Start $NAME?"
  make_stage
  dry || printf '%s\n' "$manifest" >"$STAGE/jobset.yaml"
  kubectl_call apply --filename "$STAGE/jobset.yaml"
}

do_image() {
  need_option image REGISTRY/NAME:TAG
  [[ ${OPT[image]} =~ ^[a-z0-9][A-Za-z0-9._/:@-]*$ ]] || fail "--image $(quoted_word "${OPT[image]}")" "REGISTRY/NAME:TAG" "correct it"
  need_program docker "install Docker, or build tpu/gke/Dockerfile elsewhere"
  call docker build --platform linux/amd64 --file "$TPU_DIR/gke/Dockerfile" --tag "${OPT[image]}" "${OPT[source]:-$REPOSITORY}" ||
    fail "the image was not built" "docker build to work" "read the lines above" 1
  call docker push "${OPT[image]}" ||
    fail "the image was not pushed" "a registry that takes it" "run: gcloud auth configure-docker REGISTRY-HOST" 1
}

# Sets COMMAND for `gcloud container node-pools VERB POOL ...`.
pool() {
  local verb=$1
  shift
  COMMAND=(gcloud container node-pools "$verb" "$@" --quiet "--cluster=${OPT[cluster]}" "--location=${OPT[location]}")
  [[ -z ${OPT[project]:-} ]] || COMMAND+=("--project=${OPT[project]}")
}

# Whether a pool is there. $1: the pool, $2: what a dry run assumes (0: yes).
pool_exists() {
  pool describe "$1" --format='value(status)'
  if ask RUNNING "${COMMAND[@]}"; then
    if dry; then return "$2"; fi
    return 0
  fi
  [[ $ANSWER == *"Not found"* || $ANSWER == *NOT_FOUND* || $ANSWER == *"not found"* ]] ||
    fail "gcloud refused: $(tail -n 3 <<<"$ANSWER" | tr '\n' ' ')" "an answer about $1" "sign in: gcloud auth login" 1
  return 1
}

# One pool is one slice: docs.cloud.google.com/kubernetes-engine/docs/how-to/tpus (Standard).
create_pool() {
  pool create "$1" "--machine-type=$MACHINE" "--num-nodes=$HOSTS"
  if ((HOSTS > 1)); then COMMAND+=("--tpu-topology=$TOPOLOGY"); fi
  [[ -z ${OPT[zone]:-} ]] || COMMAND+=("--node-locations=${OPT[zone]}")
  case $(capacity_kind) in
    spot) COMMAND+=(--spot) ;;
    reserved) COMMAND+=(--reservation-affinity=specific "--reservation=${OPT[reservation]}") ;;
  esac
  call "${COMMAND[@]}" || fail "the node pool $1 was not created" "quota and free chips for $SLICE" \
    "read the lines above; then the same again: pools that exist are kept" 1
}

do_pool() {
  local index missing=()
  need_slice && need_option cluster NAME && need_option location us-west4
  for ((index = 0; index < SLICES; index++)); do
    if pool_exists "$NAME-$index" 1; then note "$NAME-$index is there"; else missing+=("$NAME-$index"); fi
  done
  ((${#missing[@]})) || return 0
  show_cost "${OPT[zone]:-${OPT[location]}}"
  confirm "Create ${#missing[@]} node pools?"
  for index in "${missing[@]}"; do create_pool "$index"; done
}

do_delete-pool() {
  local index
  need_option cluster NAME && need_option location us-west4
  for ((index = 0; index < SLICES; index++)); do
    if pool_exists "$NAME-$index" 0; then
      pool delete "$NAME-$index"
      call "${COMMAND[@]}" || fail "$NAME-$index was not deleted" "its deletion" "the same again; it costs until it is gone" 1
    else
      note "$NAME-$index is gone already"
    fi
  done
}

do_status() {
  kubectl_call get jobset "$NAME" --ignore-not-found
  kubectl_call get pods --selector "jobset.sigs.k8s.io/jobset-name=$NAME" --output wide
}

do_logs() {
  kube logs --selector "jobset.sigs.k8s.io/jobset-name=$NAME,jobset.sigs.k8s.io/job-index=${OPT[slice-index]},batch.kubernetes.io/job-completion-index=${OPT[worker]}" \
    --container jaxdl --tail 200
  if [[ ${OPT[follow]:-} == yes ]]; then COMMAND+=(--follow); fi
  call "${COMMAND[@]}"
}

do_collect() {
  local to=${OPT[to]:-runs/$NAME}
  [[ $to == /* || $to == ./* ]] || to=./$to
  check_storage
  dry || mkdir -p -- "$to"
  if [[ -n ${OPT[bucket]} ]]; then
    call gcloud storage rsync "gs://${OPT[bucket]}/${RUN_PATH#/mnt/jaxdl/}" "$to" --recursive
  else
    need_option image REGISTRY/NAME:TAG
    need_program kubectl "install kubectl: kubernetes.io/docs/tasks/tools"
    make_stage
    dry || reader_manifest | sed '/^ *$/d' >"$STAGE/reader.yaml"
    kubectl_call apply --filename "$STAGE/reader.yaml"
    kubectl_call wait --for=condition=Ready "pod/$NAME-reader" --timeout=300s
    kubectl_call cp "$NAME-reader:$RUN_PATH" "$to" --container reader
    kubectl_call delete pod "$NAME-reader" --ignore-not-found --wait=false
  fi
  note "collected into $to"
}

do_delete() {
  kubectl_call delete jobset "$NAME" --ignore-not-found
  note "the node pools, if they are yours, cost still: tpu/gke.sh delete-pool"
}

main() {
  local verb=${1:-}
  case $verb in
    '' | -h | --help | help) show_help "${BASH_SOURCE[0]}" && return ;;
    cost | image | pool | render | apply | status | logs | collect | delete | delete-pool) shift ;;
    *) fail "there is no verb $(quoted_word "$verb")" "cost, image, pool, render, apply, status, logs, collect, delete or delete-pool" "see --help" ;;
  esac
  [[ " $* " != *' --help '* ]] || { show_help "${BASH_SOURCE[0]}" && return; }
  parse_options "$VALUES" "$FLAGS" "$@"
  prepare
  case $verb in
    apply | status | logs | delete) need_program kubectl "install kubectl: kubernetes.io/docs/tasks/tools" ;;
    pool | delete-pool) need_program gcloud "install the Google Cloud CLI: docs.cloud.google.com/sdk/docs/install" ;;
  esac
  case $verb in
    cost) need_slice && show_cost "${OPT[zone]:-${OPT[location]:-}}" ;;
    *) "do_$verb" ;;
  esac
}

main "$@"
