# Set-up shared by demo.sh, test.sh and bench.sh. POSIX sh; sourced from the repository root.
#
# It installs only what is missing (Debian and Ubuntu, as root or through sudo), never asks a
# question, and may be run again at any time. What it starts, it stops; what was running already,
# it leaves alone. Words go to standard error, so that a script's output stays its own.
#
# CARGO_TARGET_DIR, XDG_CACHE_HOME and DOCKER_HOST are respected where they are set.

cache=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/horde
sample_image=horde-sample:latest
engine_started=       # "", "pid" or "service": how this script started the Docker engine
engine_pidfile=

say() { printf '%s\n' "$*" >&2; }
step() { printf '\n== %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf 'hint: %s\n' "$line" >&2; done
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "this step needs root: $*" "run the script as root, or install sudo"
    fi
}

# at_least A B: whether version A is B or newer.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# --- packages -------------------------------------------------------------------------------

apt_updated=

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "$@" </dev/null >&2
}

apt_update() {
    [ -z "$apt_updated" ] || return 0
    # An outdated or half reachable index may still hold what is needed, so a failure is only told.
    apt_get update || say "apt-get update failed; going on with the index as it is"
    apt_updated=1
}

# install_packages WHAT PACKAGE...: installs the packages that provide WHAT.
install_packages() {
    what=$1
    shift
    have apt-get || die "$what is missing" "install it (on Debian: $*); this script knows only apt-get"
    say "installing $what: $*"
    apt_update
    apt_get install "$@" || die "could not install $*" "install $what by hand and run the script again"
}

# candidate PACKAGE: the version apt-get would install, nothing if it knows none.
candidate() {
    have apt-cache || return 0
    LC_ALL=C apt-cache policy "$1" 2>/dev/null | awk '/Candidate:/ && $2 != "(none)" { print $2 }'
}

compiles_c() {
    have cc && printf '#include <stdlib.h>\nint main(void) { return 0; }\n' | cc -x c -o /dev/null - 2>/dev/null
}

ensure_compiler() { compiles_c || install_packages "a C compiler" gcc libc6-dev; }

# --- Rust -----------------------------------------------------------------------------------

rust_wanted() { sed -n 's/^rust-version *= *"\(.*\)"/\1/p' Cargo.toml; }

rust_is_new_enough() {
    have cargo && have rustc || return 1
    at_least "$(rustc --version 2>/dev/null | awk '{ print $2 }')" "$(rust_wanted)" 2>/dev/null
}

rustup_install() {
    say "installing the stable Rust toolchain through rustup"
    rustup toolchain install stable --profile minimal --component clippy --component rustfmt --no-self-update >&2 ||
        rustup toolchain install stable --profile minimal --component clippy --component rustfmt >&2 ||
        die "rustup could not install the stable toolchain"
    RUSTUP_TOOLCHAIN=stable
    export RUSTUP_TOOLCHAIN
}

ensure_rust() {
    cargo_bin=${CARGO_HOME:-$HOME/.cargo}/bin
    case ":$PATH:" in *":$cargo_bin:"*) ;; *) PATH=$cargo_bin:$PATH && export PATH ;; esac
    rust_is_new_enough && return 0
    if ! have rustup; then
        [ -n "$(candidate cargo)$(candidate rustup)" ] || ! have apt-get || apt_update
        packaged=$(candidate cargo)
        if [ -n "$packaged" ] && at_least "$packaged" "$(rust_wanted)"; then
            install_packages "the Rust toolchain" cargo rustc rust-clippy rustfmt
        elif [ -n "$(candidate rustup)" ]; then
            install_packages rustup rustup
        else
            # Older distributions package neither rustup nor a recent cargo.
            have curl || install_packages curl curl ca-certificates
            say "installing rustup with its own installer"
            curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
                sh -s -- -y -q --profile minimal --default-toolchain none --no-modify-path >&2 ||
                die "could not install rustup" "install Rust $(rust_wanted) or newer by hand"
        fi
    fi
    rust_is_new_enough && return 0
    have rustup || die "the Rust toolchain is older than $(rust_wanted)" "install a newer one, or rustup"
    rustup_install
    rust_is_new_enough || die "the Rust toolchain is older than $(rust_wanted)" "run: rustup update stable"
}

ensure_rust_tools() {
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        if have rustup && [ "$(command -v cargo)" != /usr/bin/cargo ]; then
            rustup component add clippy rustfmt >&2 || die "rustup could not add clippy and rustfmt"
        else
            install_packages "clippy and rustfmt" rust-clippy rustfmt
        fi
    fi
}

use_target_dir() {
    CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
    export CARGO_TARGET_DIR
    mkdir -p "$CARGO_TARGET_DIR"
}

# --- Docker ---------------------------------------------------------------------------------

engine_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

ensure_docker() {
    # Not only the engine: docker.io brings no client on newer Debians, and no iptables without recommends.
    if ! { have docker && engine_answers; }; then
        # dockerd lives in sbin, which a plain user's PATH may lack.
        case ":$PATH:" in *:/usr/sbin:*) ;; *) PATH=$PATH:/usr/sbin:/sbin && export PATH ;; esac
        have dockerd || install_packages "the Docker engine" docker.io iptables ca-certificates
        have iptables || install_packages iptables iptables
        have docker || install_packages "the Docker client" docker-cli
        engine_answers || start_engine
    fi
}

# What tests start a second engine in a network of its own with.
ensure_network_tools() {
    case ":$PATH:" in *:/usr/sbin:*) ;; *) PATH=$PATH:/usr/sbin:/sbin && export PATH ;; esac
    have ip || install_packages "ip" iproute2
    { have nsenter && have unshare; } || install_packages "nsenter and unshare" util-linux
}

# What tests look at the dashboard with.
ensure_tmux() { have tmux || install_packages tmux tmux; }

# What tests read the manual with.
ensure_man() { have man || install_packages man man-db; }

start_engine() {
    [ -z "${DOCKER_HOST:-}" ] || die "no Docker engine answers at $DOCKER_HOST" "start it, or unset DOCKER_HOST"
    if [ "$(id -u)" -ne 0 ] && as_root docker version >/dev/null 2>&1; then
        die "the Docker engine runs, but this user may not use it" \
            "run as root, or join the docker group: sudo usermod -aG docker $(id -un), then log in again"
    fi
    trap_stop
    if [ -d /run/systemd/system ] && systemctl cat docker.service >/dev/null 2>&1; then
        say "starting the Docker engine (docker.service)"
        as_root systemctl start docker.service >&2 || die "docker.service did not start" "see: journalctl -u docker"
        engine_started=service
        engine_answers || die "the Docker engine started, but this user may not use it" \
            "run as root, or join the docker group: sudo usermod -aG docker $(id -un), then log in again"
        return 0
    fi
    mkdir -p "$cache"
    # A kernel without the needed netfilter or overlay parts (small virtual machines, nested
    # containers) runs the engine only without them; jobs need neither.
    start_dockerd ||
        { say "trying again without iptables" && start_dockerd --iptables=false; } ||
        { say "trying again with the plain storage driver" && start_dockerd --iptables=false --storage-driver=vfs; } || {
        tail -n 20 "$cache/dockerd.log" >&2
        die "the Docker engine did not start" "its log: $cache/dockerd.log"
    }
}

# start_dockerd FLAG...: starts the engine by hand and waits until it answers.
start_dockerd() {
    engine_pidfile=$cache/dockerd.pid
    # An engine that was killed leaves the file, and the next one would take its number for a live engine.
    as_root rm -f "$engine_pidfile"
    say "starting the Docker engine (dockerd${*:+ $*})"
    # Own session: Ctrl-C is for what the script runs, and the engine must outlive it to clean up.
    as_root setsid dockerd --pidfile "$engine_pidfile" --group "$(id -gn)" "$@" \
        </dev/null >"$cache/dockerd.log" 2>&1 &
    starter=$!
    engine_started=pid
    waited=0
    while [ "$waited" -lt 120 ]; do
        engine_answers && return 0
        kill -0 "$starter" 2>/dev/null || return 1
        sleep 0.5
        waited=$((waited + 1))
    done
    stop_engine
    return 1
}

stop_engine() {
    case $engine_started in
    pid)
        [ -r "$engine_pidfile" ] && pid=$(cat "$engine_pidfile") || pid=
        if [ -n "$pid" ]; then
            say "stopping the Docker engine that this script started"
            as_root kill "$pid" 2>/dev/null || true
            waited=0
            while as_root kill -0 "$pid" 2>/dev/null && [ "$waited" -lt 100 ]; do
                sleep 0.2
                waited=$((waited + 1))
            done
        fi
        ;;
    service)
        say "stopping the Docker engine that this script started"
        as_root systemctl stop docker.service docker.socket >&2 || true
        ;;
    esac
    engine_started=
}

# The job image: nothing but a static busybox, so that no registry is needed.
ensure_sample_image() {
    docker image inspect "$sample_image" >/dev/null 2>&1 && return 0
    if have dpkg; then
        dpkg -s busybox-static >/dev/null 2>&1 || install_packages "a static busybox" busybox-static
    fi
    have busybox || die "busybox is missing" "install a statically linked busybox"
    say "making the job image $sample_image"
    root=$(mktemp -d)
    mkdir -p "$root/bin" "$root/tmp" "$root/etc" "$root/root"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for applet in $(busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\n' >"$root/etc/group"
    chmod 1777 "$root/tmp"
    imported=0
    tar -C "$root" --owner=0 --group=0 -cf - . |
        docker import --change 'CMD ["/bin/sh"]' --change 'ENV PATH=/bin' - "$sample_image" >/dev/null || imported=$?
    rm -rf "$root"
    [ "$imported" -eq 0 ] || die "could not import the job image"
    docker run --rm --network none "$sample_image" true ||
        die "the Docker engine cannot run a container" "see: docker run --rm --network none $sample_image true"
}

# --- Python ---------------------------------------------------------------------------------

# compute-horde 0.0.27 asks for exactly this release line.
is_python_311() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }

find_python_311() {
    for python in python3.11 python3 /usr/bin/python3.11; do
        if have "$python" && is_python_311 "$python"; then
            printf '%s\n' "$python"
            return 0
        fi
    done
    return 1
}

# ensure_python_clients: sets $venv_python; returns 1 where no CPython 3.11 can be had.
ensure_python_clients() {
    if ! find_python_311 >/dev/null; then
        [ -z "$(candidate python3.11)" ] || install_packages "CPython 3.11" python3.11 python3.11-venv
        find_python_311 >/dev/null || return 1
    fi
    python=$(find_python_311)
    "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 || install_packages "Python's venv" python3.11-venv
    wanted=$(cat tests/python/requirements*.txt | cksum | tr -d ' \t')
    venv=$cache/python-$wanted
    venv_python=$venv/bin/python
    [ -f "$venv/complete" ] && "$venv_python" -c 'import sys' 2>/dev/null && return 0
    say "installing the Python clients into $venv"
    rm -rf "$venv"
    mkdir -p "$cache"
    "$python" -m venv "$venv" >&2 &&
        "$venv_python" -m pip install --quiet --disable-pip-version-check -r tests/python/requirements.txt >&2 &&
        "$venv_python" -m pip install --quiet --disable-pip-version-check --no-deps \
            -r tests/python/requirements-no-deps.txt >&2 ||
        die "could not install the Python clients"
    : >"$venv/complete"
}

# --- all of it ------------------------------------------------------------------------------

# Set once something must be stopped at the end, whichever way the script ends.
trap_stop() {
    trap 'stop_engine' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

set_up() {
    ensure_compiler
    ensure_rust
    use_target_dir
    ensure_docker
    ensure_sample_image
}

build_release() {
    step "building the release binary"
    cargo build --release --locked --bin horde >&2
    horde=$CARGO_TARGET_DIR/release/horde
}
