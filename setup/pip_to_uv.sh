# shellcheck shell=bash
# Sourced by bootstrap.sh. uv reads neither PIP_* variables nor pip's configuration files; pip_to_uv hands it what pip
# would use to reach its main index. UV_* variables that are set already win.

# The value pip uses for one of its options: the environment wins over [install], which wins over [global].
pip_setting() {
    local section line value='' words
    for section in global install ':env:'; do
        while IFS= read -r line; do
            [[ $line == "$section.$1="* ]] && value=${line#*=}
        done <<<"$PIP_CONFIG"
    done
    # pip prints the value quoted, a list with \n between its items.
    value=${value#[\'\"]}
    value=${value%[\'\"]}
    read -ra words <<<"${value//\\n/ }"
    printf '%s' "${words[*]}"
}

# give NAME VALUE: exports it unless there is no value, or NAME has one already.
give() {
    [[ -z $2 || -n ${!1:-} ]] || export "$1=$2"
}

# pip_to_uv PYTHON: sets uv's environment; false where uv must not be used, since pip may not ask any index.
pip_to_uv() {
    PIP_CONFIG=$("$1" -m pip config list)
    give UV_DEFAULT_INDEX "$(pip_setting index-url)"
    give UV_INSECURE_HOST "$(pip_setting trusted-host)"
    give UV_HTTP_TIMEOUT "$(pip_setting default-timeout)"
    give UV_HTTP_TIMEOUT "$(pip_setting timeout)"
    give SSL_CERT_FILE "$(pip_setting cert)"
    give ALL_PROXY "$(pip_setting proxy)"
    [[ ! $(pip_setting no-index) =~ ^(1|true|yes|on)$ ]]
}
