#!/usr/bin/env bash
# Trains on the GPUs of a Slurm cluster: tpu/slurm.sh VERB NAME [options] [-- FILE [its options]]
#
# Verbs
#   install  make the virtual environment with jaxdl[gpu] (on the login node; the folder is shared)
#   submit   put the run into the queue, unless NAME is there already
#   status   what Slurm says of NAME
#   logs     its log; --follow goes on
#   collect  say where the run folder is, and copy it with --to
#   cancel   take it out of the queue; a running job gets SIGTERM and saves
# A job that was preempted, or came to its time limit, is put into the queue again by itself, and goes
# on in the same run folder.
#
#   --nodes 1  --gpus 8           GPUs of a node
#   --time 24:00:00  --partition NAME  --account NAME
#   --sbatch-flag FLAG            one more flag for sbatch
#   --run-dir DIR                 on a file system that every node reaches (default: runs/NAME here)
#   --work-dir FOLDER             where FILE is looked for (default: this checkout)
#   --venv FOLDER                 default: .venv-gpu in this checkout
#   --env NAME[=VALUE]            a variable for the job, without VALUE from here; kept in a file of yours
#   --dry-run                     print every command, run none        --yes   ask nothing
#   --follow   --to FOLDER

set -euo pipefail

TPU_DIR=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
REPOSITORY=$(dirname -- "$TPU_DIR")
# shellcheck source-path=SCRIPTDIR
source "$TPU_DIR/launch/commands.sh"
# shellcheck source-path=SCRIPTDIR
source "$TPU_DIR/launch/jobs.sh"

VALUES='nodes gpus time partition account sbatch-flag run-dir work-dir venv env to'
FLAGS='dry-run yes follow'

prepare() {
  check_name "$NAME" 60
  find_stage slurm
  : "${OPT[nodes]:=1}" "${OPT[gpus]:=8}" "${OPT[time]:=24:00:00}"
  : "${OPT[work-dir]:=$REPOSITORY}" "${OPT[venv]:=$REPOSITORY/.venv-gpu}" "${OPT[run-dir]:=$PWD/runs/$NAME}"
  check_whole nodes 1 && check_whole gpus 1
  [[ ${OPT[time]} =~ ^[0-9]+(-[0-9]+)?(:[0-9]{2}){0,2}$ ]] ||
    fail "--time $(quoted_word "${OPT[time]}") is no time of Slurm" "such as 24:00:00 or 2-00:00:00" "correct it"
  [[ ${OPT[run-dir]} == /* ]] || OPT[run-dir]=$PWD/${OPT[run-dir]}
  [[ ${OPT[work-dir]} == /* ]] || OPT[work-dir]=$PWD/${OPT[work-dir]}
  [[ ${OPT[venv]} == /* ]] || OPT[venv]=$PWD/${OPT[venv]}
}

# Sets JOBS: the numbers of this user's jobs of that name that are not done. $1: what a dry run assumes.
find_jobs() {
  ask "$1" squeue --me "--name=$NAME" --noheader '--format=%i' ||
    fail "Slurm does not answer: $(tail -n 1 <<<"$ANSWER")" "squeue to work" "run it where sbatch works" 1
  mapfile -t JOBS < <(grep -oE '^[0-9]+' <<<"$ANSWER")
}

# Read by train.sbatch, on a node, at each start; the words never pass a shell's command line.
write_files() {
  make_stage
  if dry; then return; fi
  (umask 077 && write_environment >"$STAGE/environment.sh")
  {
    printf 'WORK_DIR=%s\n' "$(quoted_word "${OPT[work-dir]}")"
    printf 'VENV=%s\n' "$(quoted_word "${OPT[venv]}")"
    printf 'RUN_DIR=%s\n' "$(quoted_word "${OPT[run-dir]}")"
    printf 'ENVIRONMENT=%s\n' "$(quoted_word "$STAGE/environment.sh")"
    array_line TRAIN "${ARGS[@]}"
  } >"$STAGE/job.sh"
}

do_install() {
  if [[ ! -x ${OPT[venv]}/bin/python ]] || dry; then call python3 -m venv "${OPT[venv]}"; fi
  call "${OPT[venv]}/bin/python" -m pip install --quiet --constraint "$REPOSITORY/requirements.txt" "${REPOSITORY}[gpu]" ||
    fail "the installation failed" "Python 3.11 or newer, and a network" "read the lines above" 1
}

do_submit() {
  check_training
  find_jobs ''
  if ((${#JOBS[@]})); then
    note "$NAME is in the queue already: job ${JOBS[*]}"
    return
  fi
  dry || [[ -x ${OPT[venv]}/bin/jaxdl ]] || fail "there is no jaxdl in ${OPT[venv]}" "a virtual environment" "run: tpu/slurm.sh install $NAME"
  note "$NAME: ${OPT[nodes]} nodes of ${OPT[gpus]} GPUs for at most ${OPT[time]}; what that costs your cluster knows, no table here does"
  confirm "Submit it?"
  write_files
  dry || mkdir -p -- "${OPT[run-dir]}"
  local command=(sbatch "--job-name=$NAME" "--nodes=${OPT[nodes]}" "--gpus-per-node=${OPT[gpus]}" "--time=${OPT[time]}"
    "--output=$STAGE/log")
  [[ -z ${OPT[partition]:-} ]] || command+=("--partition=${OPT[partition]}")
  [[ -z ${OPT[account]:-} ]] || command+=("--account=${OPT[account]}")
  call "${command[@]}" "${EXTRA[@]}" "$TPU_DIR/slurm/train.sbatch" "$STAGE/job.sh" ||
    fail "Slurm did not take the job" "a partition, an account and a time that it allows" "read the line above; sinfo shows the partitions" 1
}

do_status() {
  call squeue --me "--name=$NAME"
}

do_logs() {
  local command=(tail -n 200)
  if [[ ${OPT[follow]:-} == yes ]]; then command+=(-F); fi
  dry || [[ -e $STAGE/log ]] || fail "there is no log" "a job that has started" "see tpu/slurm.sh status $NAME" 1
  call "${command[@]}" "$STAGE/log"
}

do_collect() {
  note "the run folder: ${OPT[run-dir]}"
  if [[ -n ${OPT[to]:-} ]]; then call cp -R -- "${OPT[run-dir]}/." "${OPT[to]}"; fi
}

do_cancel() {
  find_jobs 1
  if ((${#JOBS[@]} == 0)); then
    note "$NAME is not in the queue"
  else
    call scancel "${JOBS[@]}"
  fi
}

main() {
  local verb=${1:-}
  case $verb in
    '' | -h | --help | help) show_help "${BASH_SOURCE[0]}" && return ;;
    install | submit | status | logs | collect | cancel) shift ;;
    *) fail "there is no verb $(quoted_word "$verb")" "install, submit, status, logs, collect or cancel" "see --help" ;;
  esac
  [[ " $* " != *' --help '* ]] || { show_help "${BASH_SOURCE[0]}" && return; }
  parse_options "$VALUES" "$FLAGS" "$@"
  prepare
  "do_$verb"
}

main "$@"
