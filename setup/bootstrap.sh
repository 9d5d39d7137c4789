#!/usr/bin/env bash
# Makes .venv complete: bootstrap.sh [EXTRA...]. `make demo`, `make setup` and the others call it first; details go to .venv/setup.log.
# It ends at once where .venv/ready holds the digest of everything the environment follows from. Where a set-up was killed, packages
# may be half written: they are all written again, from uv's cache, which has what was downloaded.
#   EMOSLLM_FLAVOUR=cpu|gpu   the kind of vLLM; without it gpu where nvidia-smi lists a card. It and the extras stay with .venv.
#   EMOSLLM_PYTHON=PROGRAM    the Python to make .venv with, instead of the first that fits
#   PIP_*, UV_*, pip.conf     respected: mirrors, proxies, folders of wheels
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SETUP=$ROOT/setup VENV=$ROOT/.venv
PYTHON=$VENV/bin/python UV=$VENV/bin/uv LOG=$VENV/setup.log READY=$VENV/ready REINSTALL=()
PYTORCH_INDEX=https://download.pytorch.org/whl/cpu
BASE_PACKAGES="portaudio19-dev libasound2-plugins"                      # pyaudio, and its way to the sound server
REPORT_PACKAGES="libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0"  # weasyprint
TEST_PACKAGES="pulseaudio pulseaudio-utils chromium postgresql openssl" # a microphone, a browser, a clinic, certificates
PROBE='import platform, sys, sysconfig # what must be known of a Python that the wheels of vLLM and PyTorch fit
if (3, 11) <= sys.version_info[:2] <= (3, 14) and platform.python_implementation() == "CPython":
    free_threaded, header = sysconfig.get_config_var("Py_GIL_DISABLED"), sysconfig.get_paths()["include"] + "/Python.h"
    free_threaded or print("python%d.%d" % sys.version_info[:2], sys._base_executable, header)'
NETWORK="Is the network there? Mirrors and proxies set for pip are used (PIP_INDEX_URL, pip.conf)."
AGAIN="Then run the same command again: it continues where it stopped."

die() {
    [[ ! -f $READY.old ]] || mv "$READY.old" "$READY" # an update that failed in good order left nothing half written
    printf '%s\n' "" "$@" >&2 && exit 1
}

# step TEXT HINT COMMAND...: one line on the screen, the command's output in the log; upon failure the log's end and the hint.
step() {
    local began=$SECONDS from=0
    from=$(wc -l <"$LOG") && printf '  %-52s' "$1"
    "${@:3}" >>"$LOG" 2>&1 </dev/null || {
        printf 'failed\n\nThe last lines of %s:\n' "$LOG"
        tail -n "+$((from + 1))" "$LOG" | tail -n 15 | sed 's/^/    /'
        die "$2" "$AGAIN"
    }
    printf '%3d s\n' $((SECONDS - began))
}

# What is asked for: FLAVOUR, and EXTRAS with those that are there. BASE is what only a new environment can follow.
set_wish() {
    FLAVOUR=${EMOSLLM_FLAVOUR:-$(cat "$VENV/flavour" 2>/dev/null || { nvidia-smi -L >/dev/null 2>&1 && echo gpu; } || echo cpu)}
    [[ $FLAVOUR == cpu || $FLAVOUR == gpu ]] || die "EMOSLLM_FLAVOUR is '$FLAVOUR'; it must be cpu or gpu."
    EXTRAS=$({ cat "$VENV/extras" 2>/dev/null || true; printf '%s\n' base "$@"; } | sort -u)
    BASE="$ROOT $FLAVOUR $(readlink -f "$PYTHON" || true) $(sha256sum <"$SETUP/uv.txt")"
    DIGEST=$(cat "$SETUP/"{bootstrap.sh,"$FLAVOUR.lock",torch-cpu.lock} "$ROOT/pyproject.toml" - <<<"$BASE $EXTRAS" | sha256sum)
    [[ ! -x $PYTHON || ! -f $READY || $(<"$READY") != "$DIGEST" ]] || exit 0
}

check_machine() {
    local unknown libc candidate wanted=4
    unknown=$(comm -23 <(echo "$EXTRAS") <({ echo server; sed -n 's/^# for //p' "$SETUP/$FLAVOUR.lock" | tr ' ' '\n'; } | sort -u))
    [[ -z $unknown ]] || die "There is no extra '$unknown'; there are clinic, reports, server, train, transcribe and tests."
    libc=$(getconf GNU_LIBC_VERSION 2>/dev/null || echo "no glibc")
    [[ $(uname -m) =~ ^(x86_64|aarch64)$ && $(printf 'glibc 2.31\n%s\n' "$libc" | sort -V | head -n1) == "glibc 2.31" ]] ||
        die "vLLM needs Linux on x86_64 or aarch64 with glibc 2.31 (Debian 11, Ubuntu 20.04); this is $(uname -sm), $libc."
    [[ $FLAVOUR == gpu || $(uname -m) == aarch64 ]] || grep -qw avx2 /proc/cpuinfo || die "vLLM's build for processors needs AVX2."
    [[ $FLAVOUR == cpu ]] || wanted=16 # GiB
    [[ -x $PYTHON ]] || (($(df -Pk "$ROOT" | awk 'NR == 2 { print $4 }') >= wanted * 1024 * 1024)) ||
        die "The $FLAVOUR environment needs $wanted GiB; less is free at $ROOT."
    for candidate in ${EMOSLLM_PYTHON:-python3 python3.13 python3.12 python3.11 python3.14}; do # run, as pyenv's shims may lead nowhere
        read -r VERSION OWN_PYTHON HEADER < <("$candidate" -c "$PROBE" 2>/dev/null) && return
    done
    die "CPython 3.11, 3.12, 3.13 or 3.14 is needed; ${EMOSLLM_PYTHON:-python3} is none. Install one, for example" \
        "sudo apt-get install python3.11 python3.11-venv python3.11-dev, or name it: EMOSLLM_PYTHON=/path/to/python3.12. $AGAIN"
}

install_system_packages() {
    local wanted=$BASE_PACKAGES missing=() package sudo=(sudo -n) apt
    command -v apt-get >/dev/null || return 0 # what is missing then shows when something is built or tried
    [[ ! $EXTRAS =~ reports|tests ]] || wanted+=" $REPORT_PACKAGES"
    [[ ! $EXTRAS =~ tests ]] || wanted+=" $TEST_PACKAGES" # not PulseAudio beside PipeWire; tests that need it are then skipped
    [[ ! -e /usr/bin/pipewire-pulse ]] || wanted=${wanted/pulseaudio pulseaudio-utils/}
    for package in $wanted; do
        [[ $(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    command -v gcc >/dev/null || missing+=(gcc libc6-dev)
    "$OWN_PYTHON" -c 'import ensurepip' 2>/dev/null || missing+=("$VERSION-venv")
    [[ -f $HEADER ]] || missing+=("$VERSION-dev")
    [[ ${#missing[@]} -gt 0 ]] || return 0
    # Nothing that a person installed is taken away. The package lists may be missing (a container) or old.
    apt=(apt-get -y -o DPkg::Lock::Timeout=300 install --no-install-recommends --no-remove "${missing[@]}")
    [[ $EUID -ne 0 ]] || sudo=(env)
    "${sudo[@]}" true 2>/dev/null ||
        die "System packages are missing, and installing them takes an administrator's rights. Run" "" "    sudo ${apt[*]}" "" "$AGAIN"
    step "system packages: ${missing[*]}" "By hand: sudo ${apt[*]}" "${sudo[@]}" DEBIAN_FRONTEND=noninteractive \
        bash -c '"$@" || { apt-get update; "$@"; }' apt "${apt[@]}" 9>&- # a service that a package starts must not keep the lock
}

make_venv() { # everything goes but the lock, which this process holds, and the log
    find "$VENV" -mindepth 1 -maxdepth 1 ! -name lock ! -name setup.log -exec rm -rf {} + && "$OWN_PYTHON" -m venv "$VENV" &&
        "$PYTHON" -m pip install --no-deps --require-hashes -r "$SETUP/uv.txt"
}

# uv reads neither pip.conf nor PIP_*, so it is handed what pip is told. UV_* variables that are set win.
configure_uv() {
    local settings pair name section value
    settings=$("$PYTHON" -m pip config list)
    for pair in UV_{DEFAULT_INDEX=index-url,INDEX=extra-index-url,FIND_LINKS=find-links,NO_INDEX=no-index,INSECURE_HOST=trusted-host} \
        UV_HTTP_TIMEOUT={timeout,default-timeout} SSL_CERT_FILE=cert ALL_PROXY=proxy; do
        name=${pair%=*}
        for section in :env: install global; do
            value=$(sed -n "s/^$section\.${pair#*=}=['\"]\(.*\)['\"]$/\1/p" <<<"$settings" | sed 's/\(\\n\| \)\+/ /g; s/^ //')
            [[ $name != UV_FIND_LINKS ]] || value=${value// /,}
            [[ -z $value || -n ${!name:-} ]] || export "$name=$value"
        done
    done
}

install_torch() { # PyTorch's own index is asked second, because waiting for one that cannot be reached takes minutes
    local install=("$UV" pip install "${REINSTALL[@]}" --python "$PYTHON" --no-deps --require-hashes -r "$SETUP/torch-cpu.lock")
    "${install[@]}" || "${install[@]}" --default-index "$PYTORCH_INDEX"
}

# Only pyaudio has no wheel; it is built with the setuptools of uv.txt. Bytecode is made now, or the first commands would wait for it.
install_packages() {
    local locks=("$SETUP/uv.txt" "$VENV/wanted.txt") how=(--no-build-isolation --only-binary :all: --no-binary pyaudio)
    [[ $FLAVOUR == gpu ]] || locks+=("$SETUP/torch-cpu.lock")
    awk -v extras="${EXTRAS//$'\n'/|}" '/^# for/ { chosen = ($0 " ") ~ (" (" extras ") ") || extras ~ /tests/ } chosen' \
        "$SETUP/$FLAVOUR.lock" >"$VENV/wanted.txt"
    "$UV" pip sync "${REINSTALL[@]}" --compile-bytecode --python "$PYTHON" --require-hashes "${how[@]}" "${locks[@]}" &&
        "$UV" pip install --python "$PYTHON" --no-deps --no-build-isolation --editable "$ROOT"
}

set_wish "$@"
check_machine
mkdir -p "$VENV" 2>/dev/null && [[ -w $VENV ]] || die "$VENV cannot be written to. Remove it first."
exec 3>&2 9>>"$VENV/lock" # children keep the lock, so one that outlives a killed set-up is waited for as well
flock -n 9 || { echo "Another set-up is at work here; waiting for it." && flock 9; }
set_wish "$@"
trap 'printf "\nInterrupted. The same command continues where it stopped.\n" >&3; exit 130' INT HUP TERM
echo "Setting up emosllm-monitor for ${FLAVOUR^^} with ${EXTRAS//$'\n'/, }; details in $LOG" | tee -a "$LOG"
# What would lead pip, uv or Python out of the environment, or make them wait for an answer. Any index may have a file: its hash is known.
unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER UV_SYSTEM_PYTHON UV_PYTHON
export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_INDEX_STRATEGY=unsafe-best-match UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}
install_system_packages
rm -f "$READY.old"
if [[ ! -f $VENV/base || $(<"$VENV/base") != "$BASE" ]] || ! "$PYTHON" -c '' 2>/dev/null; then
    step "virtual environment, $VERSION" "$NETWORK" make_venv
    set_wish $EXTRAS
    echo "$BASE" >"$VENV/base"
else
    mv "$READY" "$READY.old" 2>/dev/null || REINSTALL=(--reinstall) # in place; was it killed, all of it again
fi
echo "$FLAVOUR" >"$VENV/flavour" && echo "$EXTRAS" >"$VENV/extras"
configure_uv
[[ $FLAVOUR == gpu ]] || step "PyTorch" "Its CPU build is at $PYTORCH_INDEX, or where PIP_FIND_LINKS points. $NETWORK" install_torch
step "vLLM and the other packages" "$NETWORK" install_packages
step "trying it out" "make clean may help." "$PYTHON" -c 'import torch, transformers, peft, pyaudio, webrtcvad; from vllm import LLM'
echo "$DIGEST" >"$READY.new" && mv "$READY.new" "$READY" && rm -f "$READY.old"
