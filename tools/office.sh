#!/bin/sh
# Have LibreOffice for the tests that recalculate workbooks; without it those tests are skipped, and say so.
command -v soffice >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "office: installing LibreOffice Calc for the tests of workbooks (about 400 MB)" >&2
    export DEBIAN_FRONTEND=noninteractive
    install="apt-get install -qq -y --no-install-recommends libreoffice-calc-nogui"
    { $install || { apt-get update -qq && $install; }; } >/dev/null 2>&1 && exit 0
fi
echo "office: NOT INSTALLED: the tests that recalculate workbooks will be skipped" >&2
