#!/bin/sh
# Make a virtual environment and install Standby with all its parts at the versions of constraints.txt.
set -eu
venv=$1
python=${PYTHON:-python3}

need() { # need PACKAGE WHY: install a Debian package if we may, else say what to do
    export DEBIAN_FRONTEND=noninteractive
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: $2; installing $1" >&2
        apt-get install -qq -y "$1" >/dev/null 2>&1 || { apt-get update -qq && apt-get install -qq -y "$1" >/dev/null; }
    else
        echo "setup: $2; please install $1 (on Debian: sudo apt-get install $1) and try again" >&2
        exit 1
    fi
}

command -v "$python" >/dev/null || need python3 "there is no $python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "setup: $python is older than 3.11; choose another one: make PYTHON=python3.12 …" >&2
    exit 1
}
"$python" -c 'import ensurepip, venv' 2>/dev/null || need python3-venv "$python cannot make virtual environments"
[ -x "$venv/bin/python" ] || { echo "setup: making $venv" >&2; "$python" -m venv "$venv"; }

echo "setup: installing (about 600 MB the first time)" >&2
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input \
    --constraint constraints.txt --editable '.[local,llamacpp,tables,dev]'
