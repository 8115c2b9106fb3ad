# shellcheck shell=bash
# A module for whatever Kamailio runs here: its folder of modules found, its source tree judged.
# Forbidden here: apt and any other fetching: who has an own compile or an RPM has the tree, or is told where it is.

# sudo has no cargo in its path, and files of root's in a checkout are in its owner's way: what was built is run there.
checker() {
    local program=${CARGO_TARGET_DIR:-target}/debug/memguard-check
    if { [ -n "${SUDO_USER:-}" ] || ! command -v cargo >/dev/null; } && [ -x "$program" ]; then
        "$program" "$@"
    elif command -v cargo >/dev/null; then
        cargo run -q --bin memguard-check -- "$@"
    else
        blocked "cargo is missing: install Rust 1.85 or later (rustup.rs), or build first as the user who has it"
    fi
}

# The programs named kamailio that may be the installed one.
programs() { local program; for program in "$(command -v kamailio)" /usr/local/sbin/kamailio /usr/sbin/kamailio; do [ ! -x "$program" ] || echo "$program"; done; }

# A line of kamailio -I, without its name.
internals() { "$1" -I 2>/dev/null | sed -n "s/.*$2: *//p" || true; }

# The configuration that kamailio reads if none is named.
configuration() {
    local program file=''
    program=$(programs | sed -n 1p)
    [ -z "$program" ] || file=$(internals "$program" "Default config")
    echo "${file:-/etc/kamailio/kamailio.cfg}"
}

# The package that a file came with, whoever's: dpkg's or rpm's; nothing if none.
owner_of() {
    [ -e "$1" ] || return 0
    { dpkg-query -S "$1" || rpm -qf --qf '%{NAME}: ' "$1"; } 2>/dev/null | sed -n '1s/:.*//p' || true
}

# The folder of the modules that will run: what kamailio says of itself, else the usual places.
find_modules() {
    local program paths path
    while read -r program; do
        # Several, with colons between them, are searched in this order.
        paths=$(internals "$program" "Default paths to modules")
        for path in ${paths//:/ }; do [ ! -f "${path%/}/pv.so" ] || { echo "${path%/}"; return; }; done
    done < <(programs)
    checker --folder 2>/dev/null || blocked "no installed Kamailio was found (neither kamailio -I nor the usual folders name one with pv.so): name its folder of modules: --modules DIR"
}

# Without --source the headers come from packages; a Kamailio that came from elsewhere has none.
refuse_unpackaged() {
    local modules
    modules=$(find_modules 2>/dev/null) || return 0
    ! dpkg-query -S "$(realpath "$modules/pv.so")" >/dev/null 2>&1 || return 0
    blocked "the Kamailio in $modules ($(checker --release "$modules/pv.so")) is no package of dpkg's: name its source tree: ./dev build --source DIR (an own compile: where it was compiled; an RPM: kamailio-X.Y.Z_src.tar.gz of kamailio.org or its source RPM)"
}

# What compiles memguard, each by its name on Debian and on RHEL and its kin; nothing is installed.
need_compilers_here() {
    local lacking=()
    command -v cargo >/dev/null || lacking+=("Rust 1.85 or later (rustup.rs; Debian 13: cargo; RHEL: cargo)")
    command -v cc >/dev/null || lacking+=("a C compiler (Debian: gcc libc6-dev; RHEL: gcc)")
    [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang.so*' >/dev/null || compgen -G '/usr/lib*/libclang.so*' >/dev/null ||
        compgen -G '/usr/lib/*/libclang*.so*' >/dev/null || lacking+=("libclang (Debian: libclang-dev; RHEL: clang-devel)")
    [ ${#lacking[@]} -eq 0 ] || blocked "what compiles memguard is missing: $(printf '%s; ' "${lacking[@]}")install it and come again"
}

# build/source/memguard.so from a tree, for the modules in a folder; words: --nearest or nothing.
build_from() {
    local tree=$1 modules=$2 name=${4:-source} option=() src status=0
    [ -z "${3:-}" ] || option=(--nearest)
    [ -f "$modules/pv.so" ] || die "there is no $modules/pv.so: --modules names the folder where Kamailio's own modules are"
    modules=$(realpath "$modules")
    src=$(checker --tree "$tree" "${option[@]}" "$modules/pv.so") || status=$?
    [ $status = 0 ] || exit 1
    note "building memguard.so for $(checker --release "$modules/pv.so") in $modules, with the headers of $src"
    build_module "$name" "$src" "$modules" own || # one target folder for all: most of the time goes into what they share
        exit 1
}

# An RPM in a folder from a built module and built programs, for the modules of a Kamailio; prints its path.
rpm_of() {
    local module=$1 programs=$2 modules=$3 folder=$4
    rm -rf "$folder"
    mkdir -p "$folder"
    quietly "RPM" "$BUILD/log/rpm.log" rpmbuild -bb rpm/kamailio-memguard-module.spec \
        --define "_topdir $folder/top" --define "_rpmdir $folder" --define "checkout $ROOT" \
        --define "own $(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | sed -n 1p)" \
        --define "kamailio $(checker --release "$module" | tr - '~')" \
        --define "module $(realpath "$module")" --define "programs $(realpath "$programs")" --define "modules $modules" || return 1
    rm -rf "$folder/top"
    find "$folder" -name '*.rpm'
}
