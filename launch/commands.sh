# shellcheck shell=bash disable=SC2034
# Sourced by the other scripts: settings, errors, and commands that are run or,
# with --dry-run, only printed.
dry_run=false
flags=()

fail() {
  echo "error: $*" >&2
  exit 2
}

# Words as a shell has to read them, in quotes where they need some.
quote() {
  local word space=''
  for word in "$@"; do
    printf '%s' "$space"
    case "$word" in
      '' | *[!A-Za-z0-9_./:=,@%+-]*)
        printf "'%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")"
        ;;
      *) printf '%s' "$word" ;;
    esac
    space=' '
  done
}

run() {
  if "$dry_run"; then
    printf '%s\n' "$(quote "$@")"
  else
    "$@"
  fi
}

# Reads --name=value into NAME for every setting of $1, and --dry-run. What
# follows -- becomes `flags`. The script's `usage` prints its help.
read_settings() {
  local settings=" $1 " name
  shift
  while [ $# -gt 0 ]; do
    case "$1" in
      --)
        shift
        flags=("$@")
        return
        ;;
      --help | -h)
        usage
        exit 0
        ;;
      --dry-run) dry_run=true ;;
      *)
        name="${1%%=*}"
        name="$(printf '%s' "${name#--}" | tr '[:lower:]' '[:upper:]')"
        case "$1/$settings" in
          --*=*/*" $name "*) printf -v "$name" '%s' "${1#*=}" ;;
          *) fail "$1: no setting; see --help. Flags of the run follow --" ;;
        esac
        ;;
    esac
    shift
  done
}

# Checks that a setting, by name, is a whole number from 1 on.
check_count() {
  case "${!1}" in
    '' | *[!0-9]* | 0*) fail "$1=${!1}: allowed: a whole number >= 1" ;;
  esac
}
