#!/bin/sh
# All tests: sh run_tests.sh; arguments go to pytest.
set -eu
repo=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
. "$repo/sap3d/environment.sh"
cd "$repo"
exec "$python" -m pytest -q "$@"
