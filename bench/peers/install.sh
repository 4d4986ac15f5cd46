#!/bin/sh
# Install the peers: one venv each under bench/.venvs (their redis-py versions exclude each other),
# BullMQ through npm when node is there. Run again at will; a peer that cannot be had is skipped.
# Usage: bench/peers/install.sh [peer ...]      PYTHON=python3.11 chooses the interpreter
here=$(cd "$(dirname "$0")" && pwd)
venvs="$here/../.venvs"
python=${PYTHON:-python3}
mkdir -p "$venvs"

want() { [ -z "$chosen" ] || case " $chosen " in *" $1 "*) true ;; *) false ;; esac; }
chosen="$*"

venv() { # name, requirement ...
  name=$1
  shift
  want "$name" || return 0
  [ -x "$venvs/$name/bin/python" ] || "$python" -m venv "$venvs/$name" || return 0
  if "$venvs/$name/bin/python" -m pip install --quiet "$@"; then
    echo "$name: ready"
  else
    echo "$name: not installable here, skipped" >&2
    rm -rf "${venvs:?}/$name"
  fi
}

venv arq "arq==0.28.0" "redis[hiredis]>=5.2,<6" uvloop
venv saq "saq[redis,hiredis]==0.26.4" typing_extensions uvloop
venv taskiq "taskiq>=0.13,<0.14" "taskiq-redis==1.2.4" hiredis uvloop
venv rq "rq>=2.6,<3" hiredis
venv streaq "streaq==7.2.0" uvloop
venv arq-dashboard "arq-dashboard==0.1.4" "redis>=4.5,<5"
venv faststream "faststream[redis]>=0.6,<0.7" hiredis uvloop

if want bullmq; then
  if command -v node >/dev/null && command -v npm >/dev/null; then
    if (cd "$here/bullmq" && npm install --silent --no-audit --no-fund --no-package-lock); then
      echo "bullmq: ready"
    else
      echo "bullmq: not installable here, skipped" >&2
    fi
  else
    echo "bullmq: no node, skipped" >&2
  fi
fi
