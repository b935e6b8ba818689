#!/bin/sh
# All tests: sh run_tests.sh; arguments go to pytest.
set -eu
repo=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
. "$repo/sap3d/runs/environment.sh"
cd "$repo"
# A file of tests a core, one thread each: so little work is not worth sharing out. tests/conftest.py has their order.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$python" -m pytest -q -n auto --dist loadfile --no-loadscope-reorder "$@"
