#!/usr/bin/env bash
# Makes .venv complete: bootstrap.sh [--tests]. `make demo`, `make test` and the others call it first.
#
# Complete means that .venv/ready holds the digest of everything the environment follows from; it is written last, and
# then this script ends in milliseconds. Otherwise it goes through its steps, each of which finds quickly what is there
# already, so an interrupted run continues. Details go to .venv/setup.log.
#
#   EMOSLLM_FLAVOUR=cpu|gpu   the kind of vLLM; without it gpu where nvidia-smi lists a card. The choice stays with
#                             .venv until this variable or `make clean` changes it.
#   EMOSLLM_PYTHON=PROGRAM    the Python to make .venv with, instead of the first that fits.
#   PIP_*, UV_*, pip.conf     respected: mirrors, proxies, folders of wheels.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SETUP=$ROOT/setup
VENV=$ROOT/.venv
LOG=$VENV/setup.log
READY=$VENV/ready         # digest and level ("run" or "tests") of a complete environment
ORIGIN=$VENV/origin       # what the virtual environment itself was made for; a different one must be made anew
PYTORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN_PACKAGES=(portaudio19-dev libasound2-plugins libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0) # of pyaudio and its way to the sound server; of weasyprint
TEST_PACKAGES=(pulseaudio pulseaudio-utils chromium postgresql openssl) # the tests' virtual microphone, browser, clinic and certificates
CONTINUES="Then run the same command again: it continues where it stopped."

# --- saying things -------------------------------------------------------------------------------------------------

die() { # die LINE...
    printf '\n' >&2
    printf '%s\n' "$@" >&2
    exit 1
}

# Appears with the first line there is to say under it.
heading() {
    [[ -n ${HEADED:-} ]] || echo "Setting up emosllm-monitor for ${FLAVOUR^^}; details in $LOG"
    HEADED=yes
}

# step TEXT HINT COMMAND...: one line on the screen, the command's output in the log; upon failure the log's end and the
# hint on the screen.
step() {
    local text=$1 hint=$2 began=$SECONDS from
    shift 2
    heading
    printf '  %-52s' "$text"
    printf '\n=== %s  %s\n' "$(date '+%F %T')" "$text" >>"$LOG"
    from=$(wc -l <"$LOG")
    if "$@" >>"$LOG" 2>&1 </dev/null; then
        printf '%3d s\n' $((SECONDS - began))
        return
    fi
    printf 'failed\n\nThe last lines of %s:\n' "$LOG"
    tail -n "+$((from + 1))" "$LOG" | tail -n 15 | sed 's/^/    /'
    die "$hint" "$CONTINUES"
}

# The screen is descriptor 3: a signal may arrive while everything else goes to the log.
on_signal() {
    printf '\nInterrupted. The same command continues where it stopped.\n' >&3
    exit "$1"
}

# --- what the environment follows from -----------------------------------------------------------------------------

set_flavour() {
    local kept=''
    [[ -f $ORIGIN ]] && kept=$(sed -n 's/^flavour //p' "$ORIGIN")
    FLAVOUR=${EMOSLLM_FLAVOUR:-$kept}
    if [[ -z $FLAVOUR ]]; then
        FLAVOUR=cpu
        nvidia-smi -L >/dev/null 2>&1 && FLAVOUR=gpu
    fi
    [[ $FLAVOUR == cpu || $FLAVOUR == gpu ]] || die "EMOSLLM_FLAVOUR is '$FLAVOUR'; it must be cpu or gpu."
    LOCKS=("$SETUP/uv.txt" "$SETUP/$FLAVOUR.lock")
    [[ $FLAVOUR == gpu ]] || LOCKS+=("$SETUP/torch-cpu.lock")
}

digest() {
    {
        cat "$SETUP"/{bootstrap,pip_to_uv}.sh "$SETUP"/*.py "${LOCKS[@]}" "$ROOT/pyproject.toml"
        origin
    } | sha256sum | cut -d' ' -f1
}

# The checkout's place is in the scripts' first lines; pip and uv cannot safely replace themselves when interrupted;
# the interpreter behind the links changes with an upgrade of the system.
origin() {
    printf 'flavour %s\n' "$FLAVOUR"
    printf 'place %s\n' "$ROOT"
    printf 'tools %s\n' "$(sha256sum <"$SETUP/uv.txt")"
    printf 'python %s\n' "$(readlink -f "$VENV/bin/python")"
}

# is_ready LEVEL...: whether the environment is complete, and was made so for one of the levels.
is_ready() {
    [[ -f $READY && -x $VENV/bin/python ]] || return 1
    local made_for level
    read -r made_for level <"$READY" || return 1
    [[ " $* " == *" $level "* && $made_for == "$(digest)" ]]
}

set_ready() {
    echo "$(digest) $LEVEL" >"$READY.new" && mv "$READY.new" "$READY"
}

# --- system --------------------------------------------------------------------------------------------------------

check_machine() {
    local machine libc
    machine=$(uname -m)
    libc=$(getconf GNU_LIBC_VERSION 2>/dev/null || echo "no glibc")
    [[ $(uname -s) == Linux && ($machine == x86_64 || $machine == aarch64) ]] ||
        die "vLLM is published for Linux on x86_64 and aarch64; this is $(uname -s) on $machine."
    # Some of vLLM's parts are built for glibc 2.31: Debian 11, Ubuntu 20.04 and later.
    [[ $(printf 'glibc 2.31\n%s\n' "$libc" | sort -V | head -n1) == "glibc 2.31" ]] ||
        die "vLLM needs glibc 2.31 or later (Debian 11, Ubuntu 20.04); this system has $libc."
    [[ $FLAVOUR == gpu || $machine == aarch64 ]] || grep -qw avx2 /proc/cpuinfo ||
        die "vLLM's build for processors needs AVX2, which this one does not have."
}

check_disk() {
    local wanted_gib=4 free_kib
    [[ $FLAVOUR == gpu ]] && wanted_gib=16
    free_kib=$(df -Pk "$VENV" | awk 'NR == 2 { print $4 }')
    ((free_kib >= wanted_gib * 1024 * 1024)) ||
        die "The $FLAVOUR environment needs $wanted_gib GiB; $((free_kib / 1024)) MiB are free at $ROOT."
}

is_installed() {
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# The first Python that fits, or that of a virtual environment to keep, as PYTHON and PYTHON_VERSION; what it lacks, as
# PYTHON_PACKAGES.
find_python() {
    local candidate lines seen=() candidates=(python3 python3.13 python3.12 python3.11 python3.14)
    [[ -z ${EMOSLLM_PYTHON:-} ]] || candidates=("$EMOSLLM_PYTHON")
    venv_fits && candidates=("$VENV/bin/python")
    for candidate in "${candidates[@]}"; do
        # A name may lead nowhere (pyenv's shims do), so it is run, not looked up.
        mapfile -t lines < <("$candidate" "$SETUP/probe.py" 2>/dev/null)
        [[ ${#lines[@]} -eq 5 ]] || continue
        if [[ ${lines[0]} == ok ]]; then
            PYTHON_VERSION=${lines[1]} PYTHON=${lines[2]} PYTHON_PACKAGES=()
            [[ -n ${lines[3]} ]] || PYTHON_PACKAGES+=("python$PYTHON_VERSION-venv")
            [[ -n ${lines[4]} ]] || PYTHON_PACKAGES+=("python$PYTHON_VERSION-dev")
            return
        fi
        seen+=("$candidate ${lines[0]}.")
    done
    die "Python 3.11, 3.12, 3.13 or 3.14 is needed. ${seen[*]:-No python3 was found.}" \
        "Install one, for example: sudo apt-get install python3.11 python3.11-venv python3.11-dev" \
        "or name one that is elsewhere: EMOSLLM_PYTHON=/path/to/python3.12. $CONTINUES"
}

# The missing packages, as MISSING.
find_missing() {
    local package wanted=("${RUN_PACKAGES[@]}")
    MISSING=()
    if [[ $LEVEL == tests ]]; then
        # Beside PipeWire, PulseAudio would fight for a desktop's sound.
        if is_installed pipewire-pulse && ! is_installed pulseaudio; then
            heading
            echo "  PipeWire runs the sound here, so PulseAudio is not installed; tests that need it are skipped."
        else
            wanted+=("${TEST_PACKAGES[@]}")
        fi
    fi
    for package in "${wanted[@]}"; do
        is_installed "$package" || MISSING+=("$package")
    done
    # A Python of one's own (pyenv, conda) brings these along; Debian packs them apart.
    for package in "${PYTHON_PACKAGES[@]}"; do
        [[ $PYTHON == /usr/bin/* ]] ||
            die "$PYTHON lacks what Debian has in $package. Use another: EMOSLLM_PYTHON=/usr/bin/python3"
        MISSING+=("$package")
    done
    command -v gcc >/dev/null || MISSING+=(gcc libc6-dev)
}

# --no-remove: nothing that a person installed is ever taken away. The lock is not apt's to inherit (9>&-): a service
# that a package starts would hold it for ever.
apt_install() {
    local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=300)
    [[ $EUID -eq 0 ]] || apt=(sudo -n "${apt[@]}")
    "${apt[@]}" install --no-install-recommends --no-remove "$@" 9>&- && return
    # The package lists may be missing (a container) or old. A source that does not answer must not stop the others.
    "${apt[@]}" update 9>&- || true
    "${apt[@]}" install --no-install-recommends --no-remove "$@" 9>&-
}

install_system_packages() {
    if ! command -v apt-get >/dev/null; then
        heading
        echo "  This is neither Debian nor Ubuntu: the headers of PortAudio and Python, a C compiler, ALSA's plugins"
        echo "  and, for the tests, PulseAudio must be there already."
        return
    fi
    find_missing
    [[ ${#MISSING[@]} -gt 0 ]] || return 0
    local line="sudo apt-get install --no-install-recommends ${MISSING[*]}"
    if [[ $EUID -ne 0 ]] && ! sudo -n true 2>/dev/null; then
        die "System packages are missing, and installing them takes an administrator's rights. Run" "" "    $line" "" \
            "$CONTINUES"
    fi
    step "system packages: ${MISSING[*]}" "apt could not install them. By hand: $line" apt_install "${MISSING[@]}"
}

# --- environment ---------------------------------------------------------------------------------------------------

# Whether the virtual environment can be kept. Its Python must run, not only be there.
venv_fits() {
    [[ -f $ORIGIN && $(<"$ORIGIN") == "$(origin)" ]] && "$VENV/bin/python" -c '' 2>/dev/null
}

# Everything but the lock, which this process holds, and the log.
empty_venv() {
    find "$VENV" -mindepth 1 -maxdepth 1 ! -name lock ! -name setup.log -exec rm -rf {} +
}

make_venv() {
    empty_venv && mkdir "$VENV/tmp" &&
        "$PYTHON" -m venv "$VENV" &&
        pip_install -r "$SETUP/uv.txt" &&
        origin >"$ORIGIN"
}

pip_install() {
    "$VENV/bin/python" -m pip install --no-deps --require-hashes "$@"
}

# PyPI's build of torch needs CUDA. The CPU build may lie where pip is told to look; if not, PyTorch has an index. It is
# asked only then, because waiting for an index that cannot be reached takes minutes.
install_torch() {
    pip_install --retries 0 -r "$SETUP/torch-cpu.lock" ||
        pip_install --retries 1 --extra-index-url "$PYTORCH_INDEX" -r "$SETUP/torch-cpu.lock"
}

# uv takes seconds where pip takes minutes, and its sync removes what is not in the locks. But it asks one index; pip
# also knows the extra indexes and folders that a person has set, so it comes second. Only pyaudio has no wheel; it is
# built with the setuptools of uv.txt. Bytecode is made now, or the first commands would wait for it.
install_packages() {
    local lock from=() how=(--no-build-isolation --only-binary :all: --no-binary pyaudio)
    for lock in "${LOCKS[@]}"; do
        from+=(-r "$lock")
    done
    if pip_to_uv "$VENV/bin/python"; then
        "$VENV/bin/uv" pip sync --compile-bytecode --python "$VENV/bin/python" --require-hashes "${how[@]}" "${LOCKS[@]}" && return
    fi
    pip_install "${how[@]}" "${from[@]}"
}

install_project() {
    "$VENV/bin/python" -m pip install --no-deps --no-build-isolation --editable "$ROOT"
}

# Variables that would lead pip or Python out of the environment, or make them wait for an answer.
clean_variables() {
    unset PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX PIP_ROOT UV_SYSTEM_PYTHON UV_PYTHON UV_NO_VERIFY_HASHES
    export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1
    # Without a home that can be written to, uv has no place for its cache.
    local cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}
    if [[ -z ${UV_CACHE_DIR:-} ]] && ! { mkdir -p "$cache/uv" && [[ -w $cache/uv ]]; } 2>/dev/null; then
        export UV_CACHE_DIR=$VENV/uv-cache
    fi
    # As pip does: certificates that an administrator added count.
    [[ ! -f /etc/ssl/certs/ca-certificates.crt ]] || export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}
}

# One set-up at a time. Children keep the lock too, so one that outlives a killed set-up is waited for as well.
take_lock() {
    mkdir -p "$VENV" 2>/dev/null && [[ -w $VENV ]] ||
        die "$VENV cannot be written to; it belongs to $(stat -c %U "$VENV" || echo nobody). Remove it first."
    exec 9>>"$VENV/lock"
    flock -n 9 || {
        echo "Another set-up is at work here; waiting for it."
        flock 9
    }
}

install_environment() {
    local network="Is the network there? Mirrors and proxies set for pip are used (PIP_INDEX_URL, pip.conf)."
    local torch="PyTorch's CPU build is at $PYTORCH_INDEX, or where PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS points."
    local other_python="Another Python, if that one lacks a build: make clean, then EMOSLLM_PYTHON=python3.11."
    local verify="Should it persist: make clean."
    [[ $FLAVOUR == cpu ]] || verify+=" EMOSLLM_FLAVOUR=cpu does without the graphics card."
    rm -f "$READY"
    # What a killed installer leaves behind lies here, and goes with the next run.
    export TMPDIR=$VENV/tmp
    if ! venv_fits; then
        check_disk
        step "virtual environment, Python $PYTHON_VERSION" "$network" make_venv
    fi
    rm -rf "$TMPDIR" && mkdir "$TMPDIR"
    "$VENV/bin/python" "$SETUP/mend.py" >>"$LOG" 2>&1 || die "setup/mend.py failed; see $LOG. make clean helps."
    [[ $FLAVOUR == gpu ]] || step "PyTorch" "$torch"$'\n'"$other_python $network" install_torch
    step "vLLM and the other packages" "$network" install_packages
    step "emosllm-monitor itself" "This checkout may be incomplete: git status shows it." install_project
    step "trying it out" "$verify" "$VENV/bin/python" "$SETUP/verify.py"
    rm -rf "$TMPDIR" "$VENV/uv-cache"
}

main() {
    LEVEL=run
    [[ ${1:-} == --tests ]] && LEVEL=tests
    # Within an activated .venv, `python3` would be the one about to be replaced.
    PATH=${PATH//"$VENV/bin:"/}
    set_flavour
    is_ready tests "$LEVEL" && exit 0
    check_machine
    take_lock
    set_flavour
    is_ready tests "$LEVEL" && exit 0
    exec 3>&2
    trap 'on_signal 130' INT
    trap 'on_signal 129' HUP
    trap 'on_signal 143' TERM
    # shellcheck source=setup/pip_to_uv.sh
    source "$SETUP/pip_to_uv.sh"
    clean_variables
    find_python
    install_system_packages
    is_ready run || install_environment
    set_ready
}

main "$@"
