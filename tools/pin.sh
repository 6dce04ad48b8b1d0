#!/bin/sh
# Write constraints.txt from what is installed, so that the next installation is the same.
set -eu
venv=$1
{
    echo "# Versions that this commit was tested with. Written by: make constraints"
    "$venv/bin/python" -m pip freeze --exclude-editable
} >constraints.tmp
mv constraints.tmp constraints.txt
