#!/usr/bin/env bash
# Makes the virtual environment named by the first argument and installs requirements.lock into it.
# PYTHON names the interpreter (default python3). Safe to repeat: an interrupted run is completed.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:-.venv}
python=${PYTHON:-python3}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        return 1
    fi
}

if ! command -v "$python" >/dev/null; then
    echo "No '$python' found: install Python 3.11 or newer, or name one with PYTHON=…" >&2
    exit 2
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "'$python' is $("$python" --version 2>&1): Python 3.11 or newer is needed; name one with PYTHON=…" >&2
    exit 2
fi

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian and Ubuntu keep venv in a package per Python version.
    package="$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    echo "Installing $package, which 'python -m venv' needs here."
    if ! command -v apt-get >/dev/null || ! said=$(as_root apt-get update -qq 2>&1) ||
        ! said=$(as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" 2>&1); then
        echo "${said:-}" | tail -n 3 >&2
        echo "Please install $package (or your system's package with Python's venv module) and repeat." >&2
        exit 2
    fi
fi

if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    echo "Creating $venv with $("$python" --version 2>&1)."
    "$python" -m venv --clear "$venv"
fi

echo "Installing the locked dependencies into $venv."
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
# compat mode puts this folder itself on the path, so packages added later are found too.
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-build-isolation --no-deps \
    --config-settings editable_mode=compat -e .
