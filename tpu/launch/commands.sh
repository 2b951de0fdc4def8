# shellcheck shell=bash
# What is printed, what is run, what is asked, and errors in three parts.
# Used by: vm.sh, gke.sh, slurm.sh.

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || {
  printf 'error: this is bash %s\n  expected: bash 4.4 or newer\n  do: install it (macOS: brew install bash) and run it by name\n' \
    "$BASH_VERSION" >&2
  exit 2
}

# An error inside $(...) ends the script too.
shopt -s inherit_errexit

# What the options say: OPT[zone], OPT[spot], ... and what stands after `--`.
declare -gA OPT=()
declare -ga ARGS=() ENVS=() EXTRA=()

# Commands are printed here, whatever stdout is redirected to.
exec 3>&1

# An error in three parts: what was wrong, what was expected, what to do. Exit code 2, or the fourth.
fail() {
  printf 'error: %s\n  expected: %s\n  do: %s\n' "${1//$'\n'/ }" "${2//$'\n'/ }" "${3//$'\n'/ }" >&2
  exit "${4:-2}"
}

note() { printf '%s\n' "$*" >&2; }

dry() { [[ ${OPT[dry-run]:-} == yes ]]; }

# One word as a POSIX shell (and Python's shlex) reads it back.
quoted_word() {
  if [[ $1 =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
    printf '%s' "$1"
  else
    printf "'%s'" "${1//\'/\'\\\'\'}"
  fi
}

# All words on one line.
quoted() {
  local each space=''
  for each in "$@"; do
    printf '%s' "$space"
    quoted_word "$each"
    space=' '
  done
  printf '\n'
}

# Runs a command that changes something; with --dry-run it is printed and not run. Secrets are never
# among the words: they travel in files (see jobs.sh).
call() {
  if dry; then
    quoted "$@" >&3
  else
    "$@" </dev/null
  fi
}

# Asks something of the cloud. $1: the answer to go on with in a dry run. Sets ANSWER to stdout and
# stderr, and gives the command's exit code.
# shellcheck disable=SC2034 # the scripts that source this read ANSWER
ask() {
  local assumed=$1
  shift
  if dry; then
    quoted "$@" >&3
    ANSWER=$assumed
    return 0
  fi
  ANSWER=$("$@" </dev/null 2>&1)
}

# A question that `--yes` and `--dry-run` answer. Without a terminal nobody can answer: no.
confirm() {
  local reply=''
  if dry || [[ ${OPT[yes]:-} == yes ]]; then return 0; fi
  printf '%s [y/N] ' "$1" >&2
  read -r reply || printf '\n' >&2
  [[ $reply == [yY] || $reply == [yY][eE][sS] ]] ||
    fail "it was not confirmed: ${1%\?}" "y, or --yes" "answer y, or add --yes" 1
}

pause() { dry || sleep "${OPT[poll]:-30}"; }

need_program() {
  dry || command -v -- "$1" >/dev/null ||
    fail "there is no $1 on this machine" "$1 on PATH" "$2"
}

# $1: the program's options that take a value, $2: its flags, then the words. Sets OPT, ARGS, NAME.
# shellcheck disable=SC2034 # the scripts that source this read ARGS
parse_options() {
  local values=" $1 " flags=" $2 " word key value
  shift 2
  NAME=''
  while (($#)); do
    word=$1
    shift
    case $word in
      --) ARGS=("$@") && return ;;
      --*=*) key=${word%%=*} key=${key#--} value=${word#*=} ;;
      --*) key=${word#--} value='' ;;
      *)
        [[ -z $NAME ]] || fail "there is a word too many before --" \
          "one NAME; the training file and its options come after --" "write -- before them"
        NAME=$word
        continue
        ;;
    esac
    if [[ $flags == *" $key "* && $word != *=* ]]; then
      OPT[$key]=yes
    elif [[ $values == *" $key "* ]]; then
      if [[ $word != *=* ]]; then
        (($#)) || fail "--$key has no value" "--$key VALUE" "give one; --help shows them all"
        value=$1
        shift
      fi
      take_value "$key" "$value"
    else
      fail "there is no option $(quoted_word "${word%%=*}")" "one of those in --help" \
        "options of the training file come after --"
    fi
  done
}

# Repeatable options are lists, the others keep the last value.
take_value() {
  case $1 in
    env) ENVS+=("$2") ;;
    create-flag | sbatch-flag) EXTRA+=("$2") ;;
    *)
      [[ -n $2 && $2 != *$'\n'* ]] || fail "--$1 is empty or has a line break" "one line" "give --$1 VALUE"
      OPT[$1]=$2
      ;;
  esac
}

# Names that the clouds take: $1 the name, $2 its greatest length.
check_name() {
  [[ $1 =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ && ${#1} -le $2 ]] ||
    fail "$(quoted_word "$1") cannot be a name" \
      "a letter, then letters, digits and dashes, all small, at most $2" "choose another NAME"
}

check_whole() {
  [[ ${OPT[$1]} =~ ^[0-9]{1,6}$ && ${OPT[$1]} -ge $2 ]] ||
    fail "--$1 $(quoted_word "${OPT[$1]}") is no number that will do" "a whole number from $2" "give --$1 N"
}

need_option() {
  [[ -n ${OPT[$1]:-} ]] || fail "--$1 is missing" "--$1 $2" "add it; create remembers it for the other verbs"
}

# The comment at the head of a script is its help.
show_help() { sed -n '2,/^$/ { s/^# \{0,1\}//; p }' "$1"; }
