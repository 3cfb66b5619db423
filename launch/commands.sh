# shellcheck shell=bash disable=SC2034
# Sourced by the other scripts: settings, errors, and commands that are run, or
# only printed with --dry-run.
dry_run=false
flags=()

fail() {
  echo "error: $*" >&2
  exit 2
}

# Quotes words for a shell where they need it.
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

# Reads --name=value into NAME for every setting in $1, and --dry-run. Words
# after -- become `flags`. --help calls the script's `usage`.
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
          *) fail "$1: unknown; see --help. Flags of the run follow --" ;;
        esac
        ;;
    esac
    shift
  done
}

# Checks that the setting with this name is an integer >= 1.
check_count() {
  case "${!1}" in
    '' | *[!0-9]* | 0*) fail "$1=${!1}: must be an integer >= 1" ;;
  esac
}
