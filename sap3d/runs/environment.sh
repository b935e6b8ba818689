# Sourced by run_pipeline.sh and run_tests.sh, which set $repo. Makes or mends $repo/.venv; sets $python.
# POSIX sh. An install is whole when .venv/stamp holds the checksum of requirements.txt; .venv/installing marks one
# that was begun.

venv=$repo/.venv
python=$venv/bin/python

fail() {
    echo "error: $*" >&2
    exit 1
}

supported() {
    # pyenv's shims exist for versions that are not there, so a candidate is run.
    "$1" -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

# fail MESSAGE with what a command has said, $said; a full disk is named in its stead.
fail_with() {
    free=$(df -Pk "$repo" 2>/dev/null | awk 'END { print $4 }')
    case $said in
        *"No space left on device"*) free=0 ;;
    esac
    [ "${free:-51200}" -ge 51200 ] || fail "$venv: No space left on device (it takes 7 GB with PyPI's torch)"
    printf '%s\n' "$said" >&2
    fail "$@"
}

find_python() {
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python from 3.10 to 3.13 with the venv module on PATH: install one (docs/INSTALL.md)"
}

make_venv() {
    base=$(find_python)
    { rm -rf "$venv" && mkdir "$venv" && touch "$venv/installing"; } 2>/dev/null || fail "cannot write $venv"
    if "$base" -c 'import ensurepip' 2>/dev/null; then
        said=$("$base" -m venv "$venv" 2>&1) || fail_with "$base could not make $venv"
    else
        # Debian's python3 without python3-venv: pip installs itself, run from the system's files.
        said=$("$base" -m venv --without-pip "$venv" 2>&1) || fail_with "$base could not make $venv"
        pip_home=$("$base" -c 'import os, pip; print(os.path.dirname(os.path.dirname(pip.__file__)))' 2>/dev/null) ||
            fail "$base has no pip: install it (docs/INSTALL.md)"
        said=$(PYTHONPATH=$pip_home "$python" -m pip install --quiet --ignore-installed pip 2>&1) ||
            fail_with "pip could not be installed"
    fi
}

install_requirements() {
    touch "$venv/installing" 2>/dev/null || fail "cannot write $venv"
    echo "installing requirements.txt into $venv (once; some minutes, 7 GB of disk with PyPI's torch)"
    quiet=--quiet
    if [ -t 1 ]; then quiet=; fi # on a terminal pip shows its progress
    # Python compiles a module when it is first imported. pip would compile all of them, also those that nobody imports.
    {
        said=$("$python" -m pip install $quiet --no-compile --disable-pip-version-check -r "$repo/requirements.txt" \
            2>&1 >&3) ||
            fail_with "requirements.txt could not be installed (pip's message is above)"
    } 3>&1
    # Every script finds the packages of the repository.
    echo "$repo" >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/sap3d.pth"
    echo "$stamp" >"$venv/stamp"
    rm "$venv/installing"
}

up_to_date() {
    [ ! -e "$venv/installing" ] && [ "$(cat "$venv/stamp" 2>/dev/null)" = "$stamp" ] && supported "$python"
}

# Two runs may start at once: one installs, the other waits. The lock is a link that names its owner, so it is never
# without one; the lock of a run that was killed is removed by one waiter at a time, which looks again before.
owner_lives() {
    owner=$(readlink "$venv.lock") || return 0 # released meanwhile
    kill -0 "${owner#process-}" 2>/dev/null
}

lock() {
    waited=0
    until ln -s "process-$$" "$venv.lock" 2>/dev/null; do
        [ -w "$repo" ] || fail "cannot write $repo"
        if ! owner_lives && mkdir "$venv.lock.stale" 2>/dev/null; then
            owner_lives || rm -f "$venv.lock"
            rmdir "$venv.lock.stale"
            continue
        fi
        [ "$waited" -gt 0 ] || echo "waiting for another run that installs $venv"
        waited=$((waited + 1))
        sleep 1
    done
    trap 'rm -f "$venv.lock"' EXIT
}

stamp="$(cksum <"$repo/requirements.txt") $repo"
if ! up_to_date; then
    lock
    if [ -e "$venv/installing" ] || ! supported "$python"; then
        make_venv
    fi
    if ! up_to_date; then
        install_requirements
    fi
    rm -f "$venv.lock"
    trap - EXIT
fi

# Threads that wait sleep: spinning, they would keep the cores from the compiled kernels (sap3d/field/march.py).
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
