#!/bin/sh
# Have node and npm for the tests of the TypeScript SDK; without them those tests are skipped, and say so.
command -v node >/dev/null && command -v npm >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "node: installing nodejs and npm for the tests of the TypeScript SDK" >&2
    export DEBIAN_FRONTEND=noninteractive
    { apt-get install -qq -y nodejs npm || { apt-get update -qq && apt-get install -qq -y nodejs npm; }; } >/dev/null 2>&1 && exit 0
fi
echo "node: NOT INSTALLED: the tests of the TypeScript SDK will be skipped" >&2
