# Sourced by the launchers: `--name value` and `--flag` before `--` become variables, the rest are
# the arguments of scripts/train.py.
# usage: flags="dry_run"; options="nodes time"; . options.sh

launcher=$(realpath "$0")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# Relative paths are those of the project.
cd "$root"

# The first comment of the launcher is its help.
explain() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$launcher"; }

fail() {
  echo "error: $*" >&2
  exit 1
}

for option in $flags; do printf -v "$option" ''; done
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  option=${1#--}
  option=${option//-/_}
  case " $flags help " in *" $option "*)
    [ "$option" = help ] && { explain; exit 0; }
    printf -v "$option" yes
    shift
    continue ;;
  esac
  case " $options " in *" $option "*) ;; *) fail "$1 is unknown; see --help." ;; esac
  [ $# -gt 1 ] || fail "$1 needs a value."
  printf -v "$option" '%s' "$2"
  shift 2
done
[ "${1:-}" = -- ] && shift
[ $# -gt 0 ] || fail "give the arguments of scripts/train.py after --; see --help."

# What every process runs, quoted for a shell.
command="python scripts/train.py$(printf ' %q' "$@")"
workdir=
previous=
for argument in "$@"; do
  case $argument in --workdir=*) workdir=${argument#*=} ;; esac
  [ "$previous" = --workdir ] && workdir=$argument
  previous=$argument
done
[ -n "$workdir" ] || fail "--workdir is missing among the arguments after --."
