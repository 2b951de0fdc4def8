#!/usr/bin/env bash
# What one TPU VM does for tpu/vm.sh, which copies this file there: bash jaxdl-on-worker.sh VERB
#
#   install  unpack the sources and install jaxdl[tpu] into a virtual environment (once for the same sources)
#   start    mount the storage, and start the job unless it runs already
#   status   print one line: jaxdl-status never | running | lost | exited CODE
#   stop     SIGTERM, so that jaxdl saves; SIGKILL after STOP_SECONDS (120)
#   log      the last LINES (200) of the log; FOLLOW=yes goes on
#
# Everything is in ~/jaxdl-launch. Run by hand there, it is also how to look around.

set -euo pipefail

ROOT=$HOME/jaxdl-launch
MOUNT=/mnt/jaxdl

say() { printf 'jaxdl-on-worker %s: %s\n' "$(hostname)" "$*" >&2; }

die() {
  printf 'error: %s\n  expected: %s\n  do: %s\n' "$1" "$2" "$3" >&2
  exit 1
}

# Files arrive in the home folder; they are kept where only this user reads them.
take_in() {
  local each
  mkdir -p -- "$ROOT"
  chmod 700 -- "$ROOT"
  for each in jaxdl-source.tgz jaxdl-job.sh jaxdl-env.sh; do
    if [[ -e $HOME/$each ]]; then
      chmod 600 -- "$HOME/$each"
      mv -f -- "$HOME/$each" "$ROOT/$each"
    fi
  done
}

# TPU VM images have Ubuntu 22.04, whose Python 3.10 is too old: uv brings one (as in
# AI-Hypercomputer/maxtext, docs/run_maxtext/run_maxtext_via_multihost_runner.md).
install() {
  local stamp
  take_in
  [[ -e $ROOT/jaxdl-source.tgz ]] || die "there are no sources here" "$HOME/jaxdl-source.tgz" "run tpu/vm.sh install"
  stamp=$(sha256sum <"$ROOT/jaxdl-source.tgz")
  if [[ -e $ROOT/installed && $(<"$ROOT/installed") == "$stamp" ]]; then
    say "installed already"
    return
  fi
  rm -rf -- "$ROOT/installed" "$ROOT/source"
  mkdir -p -- "$ROOT/source"
  tar -xzf "$ROOT/jaxdl-source.tgz" -C "$ROOT/source"
  python3 -m pip install --quiet --user uv
  [[ -x $ROOT/venv/bin/python ]] || python3 -m uv venv --quiet --python 3.12 "$ROOT/venv"
  python3 -m uv pip install --quiet --python "$ROOT/venv/bin/python" \
    --constraint "$ROOT/source/requirements.txt" "$ROOT/source[tpu]"
  printf '%s\n' "$stamp" >"$ROOT/installed"
  say "installed"
}

read_job() {
  [[ -e $ROOT/jaxdl-job.sh ]] || die "there is no job here" "$HOME/jaxdl-job.sh" "run tpu/vm.sh run"
  STORAGE_KIND='' STORAGE='' RUN_DIR='' TRAIN=()
  # shellcheck source=/dev/null
  source "$ROOT/jaxdl-job.sh"
  # A folder of this machine's own disk is given relative to ~/jaxdl-launch.
  [[ $RUN_DIR == /* ]] || RUN_DIR=$ROOT/$RUN_DIR
}

# NFS (Filestore): docs.cloud.google.com/filestore/docs/mounting-fileshares. Buckets: Cloud Storage FUSE,
# docs.cloud.google.com/storage/docs/cloud-storage-fuse/install; rename-dir-limit lets Orbax rename the
# folder of a checkpoint when it commits it (0, the default elsewhere, refuses).
mount_storage() {
  [[ $STORAGE_KIND != local ]] || return 0
  if mountpoint -q "$MOUNT"; then return; fi
  sudo -n mkdir -p "$MOUNT"
  if [[ $STORAGE_KIND == nfs ]]; then
    command -v mount.nfs >/dev/null || sudo -n apt-get install --quiet --yes nfs-common
    sudo -n mount -t nfs -o rw,hard "$STORAGE" "$MOUNT"
  else
    command -v gcsfuse >/dev/null || install_gcsfuse
    sudo -n chown "$(id -u):$(id -g)" "$MOUNT"
    gcsfuse --implicit-dirs --rename-dir-limit=200000 "$STORAGE" "$MOUNT"
  fi
  mountpoint -q "$MOUNT" || die "$STORAGE was not mounted" "a mount at $MOUNT" "read the lines above; may this VM's service account use it?"
}

install_gcsfuse() {
  local list=/etc/apt/sources.list.d/gcsfuse.list key=/usr/share/keyrings/cloud.google.asc
  curl --fail --silent --show-error https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo -n tee "$key" >/dev/null
  printf 'deb [signed-by=%s] https://packages.cloud.google.com/apt gcsfuse-%s main\n' "$key" "$(lsb_release -c -s)" |
    sudo -n tee "$list" >/dev/null
  sudo -n apt-get update --quiet
  sudo -n apt-get install --quiet --yes gcsfuse
}

# A process number is used again after a restart of the machine: the command line is looked at too.
is_running() {
  local pid
  [[ -e $ROOT/pid ]] || return 1
  pid=$(<"$ROOT/pid")
  [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q 'jaxdl-on-worker.sh attempt'
}

status() {
  if is_running; then
    printf 'jaxdl-status running\n'
  elif [[ -e $ROOT/exit ]]; then
    printf 'jaxdl-status exited %s\n' "$(<"$ROOT/exit")"
  elif [[ -e $ROOT/pid ]]; then
    printf 'jaxdl-status lost\n'
  else
    printf 'jaxdl-status never\n'
  fi
}

# The root of a share belongs to root; the run folder in it is this user's.
make_run_folder() {
  if ! mkdir -p -- "$RUN_DIR" 2>/dev/null; then
    sudo -n mkdir -p -- "$RUN_DIR"
    sudo -n chown "$(id -u):$(id -g)" -- "$RUN_DIR"
  fi
  [[ -w $RUN_DIR ]] || die "$RUN_DIR cannot be written" "a folder of $(id -un)" "see its owner: ls -ld there"
}

start() {
  take_in
  read_job
  if is_running; then
    say "it runs already"
    return
  fi
  mount_storage
  make_run_folder
  ln -sfn -- "$RUN_DIR" "$ROOT/run"
  rm -f -- "$ROOT/exit"
  # Its own session: it lives on when the connection ends.
  setsid bash "$HOME/jaxdl-on-worker.sh" attempt >>"$ROOT/log" 2>&1 </dev/null &
  printf '%s\n' "$!" >"$ROOT/pid"
  say "started"
}

# The job itself. SIGTERM comes to the whole group: jaxdl saves and ends with 75, and this notes it.
attempt() {
  local code=0
  trap : TERM
  read_job
  # shellcheck source=/dev/null
  if [[ -e $ROOT/jaxdl-env.sh ]]; then source "$ROOT/jaxdl-env.sh"; fi
  cd -- "$ROOT/source"
  printf -- '--- %s starts at %s\n' "$(hostname)" "$(date -u +%FT%TZ)"
  PATH=$ROOT/venv/bin:$PATH jaxdl train "${TRAIN[0]}" --run-dir "$RUN_DIR" "${TRAIN[@]:1}" || code=$?
  printf -- '--- ended with %s\n' "$code"
  printf '%s\n' "$code" >"$ROOT/exit"
}

stop() {
  local pid left=$((${STOP_SECONDS:-120} * 5))
  if is_running; then
    pid=$(<"$ROOT/pid")
    kill -TERM -- "-$pid" 2>/dev/null || true
    while is_running && ((left-- > 0)); do sleep 0.2; done
    if is_running; then kill -KILL -- "-$pid" 2>/dev/null || true; fi
  fi
  # A process that was killed leaves the lock of libtpu behind; only our own is taken away.
  if [[ -O /tmp/libtpu_lockfile ]]; then rm -f /tmp/libtpu_lockfile; fi
  status
}

log() {
  local follow=()
  if [[ ${FOLLOW:-} == yes ]]; then follow=(-F); fi
  [[ -e $ROOT/log ]] || die "there is no log here" "a job that was started" "run tpu/vm.sh run"
  tail -n "${LINES:-200}" "${follow[@]}" "$ROOT/log"
}

case ${1:-} in
  install | start | status | stop | log | attempt) "$1" ;;
  *) sed -n '2,/^$/ { s/^# \{0,1\}//; p }' "$0" ;;
esac
