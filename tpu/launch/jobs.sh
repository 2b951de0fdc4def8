# shellcheck shell=bash
# What is sent to the machines: the sources, the command as a file, and the environment as a file.
# The user's words never stand on a command line over there, so no shell can misread them, and a
# secret never stands on one here either (process lists and gcloud's own logs keep those).
# Used by: vm.sh, slurm.sh. Needs: commands.sh, NAME.

# Sets STAGE, this machine's folder for NAME.
# shellcheck disable=SC2153 # parse_options sets NAME
find_stage() {
  STAGE=${XDG_CACHE_HOME:-$HOME/.cache}/jaxdl-launch/$1/$NAME
}

# Whether a variable's value is to be kept from every output.
is_secret() { [[ ${1^^} =~ (TOKEN|KEY|SECRET|PASSWORD|CREDENTIAL) ]]; }

# `--env NAME` (the value is taken from this environment) or `--env NAME=VALUE`, as `export` lines.
write_environment() {
  local each name value
  for each in "${ENVS[@]}"; do
    name=${each%%=*}
    [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] ||
      fail "--env needs the name of a variable" "--env NAME or --env NAME=VALUE" "name it with letters, digits and _"
    if [[ $each == *=* ]]; then
      value=${each#*=}
    else
      [[ -n ${!name+set} ]] || fail "--env $name: it is not set here" "a variable of this shell" "export $name=... first"
      value=${!name}
    fi
    printf 'export %s=%s\n' "$name" "$(quoted_word "$value")"
  done
}

check_training() {
  local each
  ((${#ARGS[@]})) || fail "there is nothing to train" "-- FILE [its options]" "such as: -- examples/digits.py --steps 500"
  [[ ${ARGS[0]} != -* ]] || fail "$(quoted_word "${ARGS[0]}") stands where the training file should" \
    "-- FILE [its options]" "put the file first"
  for each in "${ARGS[@]}"; do
    [[ $each != --run-dir && $each != --run-dir=* ]] ||
      fail "--run-dir stands after --" "--run-dir before the --, where the launcher reads it too" "move it"
  done
}

# A bash array by name, as a line that `source` reads back.
array_line() {
  printf '%s=(' "$1"
  shift
  quoted "$@" | sed '$ s/$/)/'
}

# Packs what git tracks and what it does not ignore, as it stands: no .venv, no runs, no ignored secret.
pack_sources() {
  local source=${OPT[source]:-$REPOSITORY} list=$STAGE/files
  git -C "$source" rev-parse --is-inside-work-tree >/dev/null 2>&1 ||
    fail "$(quoted_word "$source") is no git checkout" "a clone of jaxdl with your files in it" "give --source FOLDER"
  git -C "$source" ls-files -z --cached --others --exclude-standard -- . ':!:.env*' ':!:**/.env*' |
    while IFS= read -r -d '' each; do
      if [[ -e $source/$each || -L $source/$each ]]; then printf '%s\0' "$each"; fi
    done >"$list"
  tar -C "$source" --null --files-from="$list" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - |
    gzip -n >"$STAGE/jaxdl-source.tgz"
}

make_stage() {
  dry || (umask 077 && mkdir -p -- "$STAGE")
}
