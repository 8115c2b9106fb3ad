# shellcheck shell=bash
# Compiles memguard.so, and the modules and programs in C that tests and benchmarks load.
# Forbidden here: fetching (kamailio.sh does); keeping a module that does not fit.

fits() { cargo run -q --bin memguard-check -- "$@" >&2; }

# build.rs gets the headers and the modules of exactly this version; each version has its own target folder.
# What is built says nothing of where it was built: a package is the same from every checkout.
host_env() {
    export MEMGUARD_KAMAILIO_SRC=$BUILD/$1/src MEMGUARD_KAMAILIO_MODULES=$BUILD/$1/modules
    export RUSTFLAGS="--remap-path-prefix=$ROOT=memguard --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
}

build_memguard() {
    local version=$1 target=$BUILD/target-$1
    prepare "$version"
    note "building memguard.so for Kamailio $version"
    (host_env "$version" && cargo build --release --lib --features host --target-dir "$target") >&2 || return 1
    cp "$target/release/libmemguard.so" "$BUILD/$version/memguard.so.new"
    fits "$BUILD/$version/memguard.so.new" "$BUILD/$version/modules/pv.so" ||
        { rm -f "$BUILD/$version/memguard.so.new"; echo "dev: the module that was built does not fit Kamailio $version; it was thrown away" >&2; return 1; }
    mv -f "$BUILD/$version/memguard.so.new" "$BUILD/$version/memguard.so"
}

# Compiler options for a module in C, derived from the words of an installed module's flag string: each word is
# a define of that name, but for the few that are put together or are text only (core/ver_defs.h).
defines() {
    local modules=$1 version flags name number arch os
    { read -r version; read -r flags; } < <(cargo run -q --bin memguard-check -- "$modules/pv.so")
    [[ $version =~ ^([^\ ]+)\ ([^\ ]+)\ \(([^/]+)/([^\)]+)\)$ ]] || die "unreadable version of $modules/pv.so: $version"
    name=${BASH_REMATCH[1]} number=${BASH_REMATCH[2]} arch=${BASH_REMATCH[3]} os=${BASH_REMATCH[4]}
    printf '%s\n' "-DNAME=\"$name\"" "-DVERSION=\"$number\"" "-DARCH=\"$arch\"" "-DOS_QUOTED=\"$os\"" "-DOS=$os" \
        "-D__CPU_$arch" "-D__OS_${os,,}" -DVERSIONVAL="$(awk -F. '{printf "%d", $1 * 1000000 + $2 * 1000 + $3}' <<<"${number%%-*}")" \
        -DSTATISTICS -DMALLOC_STATS -DUSE_CORE_STATS -DCC_GCC_LIKE_ASM -DHAVE_EPOLL -DHAVE_SCHED_YIELD -DHAVE_MSG_NOSIGNAL
    sed 's/, */\n/g' <<<"$flags" | sed -E 's/^TLS_PTHREAD_MUTEX_SHARED$/KSR_PTHREAD_MUTEX_SHARED/
        s/^FAST_LOCK-ADAPTIVE_WAIT/FAST_LOCK\nADAPTIVE_WAIT\nADAPTIVE_WAIT_LOOPS=1024\n/
        s/^FAST_LOCK-BUSY_WAIT/FAST_LOCK\nBUSY_WAIT\n/; s/-NOSMP/\nNOSMP/' | sed '/^$/d; s/^/-D/'
    # 5.6 joins fragments, but has no word for it in its string.
    [[ $number = 5.6* || $number = 5.7* ]] && echo -DWITH_XAVP -DMEM_JOIN_FREE | tr ' ' '\n'
    return 0
}

# A module in C for tests or benchmarks: NAME.so of VERSION, from SOURCE.
build_in_c() {
    local version=$1 name=$2 source=$3 folder=$BUILD/$1 options
    prepare "$version"
    [ -f "$folder/$name.so" ] && [ -z "$(find "$(dirname "$source")" tools/parts/build.sh -newer "$folder/$name.so")" ] && return
    mapfile -t options < <(defines "$folder/modules")
    cc -shared -fPIC -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -isystem "$folder/src" "${options[@]}" \
        -DMOD_NAME="\"$name\"" -DMOD_NAMEID="$name" "$source" -o "$folder/$name.so" || return 1
    fits "$folder/$name.so" "$folder/modules/pv.so"
}

# The stand-in for Kamailio (tests/module/standin): a program, with memguard's knowledge of fm's and qm's blocks.
build_standin() {
    local folder=$BUILD/$1 options
    [ -f "$folder/standin" ] && [ -z "$(find tests/module/standin c_shim tools/parts/build.sh -newer "$folder/standin")" ] && return
    mapfile -t options < <(defines "$folder/modules")
    cc -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -fno-builtin-malloc -fno-builtin-calloc -rdynamic \
        -isystem "$folder/src" -Ic_shim "${options[@]}" -DMOD_NAME='"standin"' -DMOD_NAMEID=standin \
        tests/module/standin/{host,layout_fm,layout_qm}.c -o "$folder/standin" -ldl -lpthread
}

build_package() { MEMGUARD_ROOT=$ROOT tools/package --kamailio "$1" >/dev/null; }

build_mgtest() { build_in_c "$1" mgtest tests/module/leaky/mgtest.c; }
