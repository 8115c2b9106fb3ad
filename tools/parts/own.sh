# shellcheck shell=bash
# A Kamailio compiled from the source package's tree, as people do who have one of their own: by make and by CMake.
# Forbidden here: anything outside ./build, except one announced apt-get install of what compiles Kamailio.

# What the tests' configurations load; each needs nothing but the C library.
OWN_MODULES="kex corex pv tm tmx sl rr maxfwd textops siputils sanity xlog htable ctl cfg_rpc counters xhttp jsonrpcs usrloc registrar path nathelper auth cfgutils pipelimit"

# The whole source package of a version, unpacked: build/tree-VERSION.
prepare_tree() {
    local version=$1 folder=$BUILD/tree-$1 conf package
    [ -f "$folder/ready" ] && return
    note "Kamailio $version: fetching its source"
    conf=$(package_lists "$version")
    package=$(newest_of "$conf" "$version")
    [ -n "$package" ] || blocked "Debian $(suite_of "$version") has no source of Kamailio $version"
    rm -rf "$folder"
    mkdir -p "$folder/fetch"
    fetch_source "$conf" "$package" "$folder/fetch"
    tar -xf "$(source_archive "$folder/fetch")" -C "$folder" --strip-components=1
    rm -rf "$folder/fetch"
    touch "$folder/ready"
}

need_compilers() {
    local packages=() tool
    for tool in make cmake flex bison pkg-config; do command -v "$tool" >/dev/null || packages+=("$tool"); done
    command -v gcc >/dev/null || packages+=(gcc libc6-dev)
    [ ${#packages[@]} -eq 0 ] && return
    [ "$(id -u)" = 0 ] || blocked "to compile Kamailio please run as root: apt-get install ${packages[*]}"
    note "installing ${packages[*]} (to compile a Kamailio of its own for the tests)"
    install_packages "${packages[@]}" || blocked "this failed: apt-get install ${packages[*]}"
}

# Makes build/VERSION-HOW from build/tree-VERSION: installed below its own prefix, and memguard.so from the same tree. Once.
prepare_own() {
    local version=$1 how=$2 name=$1-$2 folder=$BUILD/$1-$2
    need_compilers
    prepare "$version" # sipp and kamcmd for the tests
    prepare_tree "$version"
    if [ "$(cat "$folder/ready" 2>/dev/null)" != "$LAYOUT $ROOT" ]; then
        note "compiling Kamailio $version by $how"
        rm -rf "$folder"
        mkdir -p "$folder/compile" "$folder/bin"
        quietly "Kamailio $version by $how" "$BUILD/log/own-$name.log" "compile_by_$how" "$BUILD/tree-$version" "$folder" ||
            { echo "dev: Kamailio $version could not be compiled by $how" >&2; return 1; }
        rm -rf "$folder/compile"
        ln -sfn "$(cd "$folder" && echo root/lib*/kamailio/modules)" "$folder/modules"
        ln -sfn "../tree-$version/src" "$folder/src"
        ln -sfn ../root/sbin/kamailio "$folder/bin/kamailio"
        "$folder/bin/kamailio" -v >/dev/null || # not asked for its number: by CMake, 6.0.1's tree calls itself 6.0.0-rc0
            { echo "dev: $folder/bin/kamailio does not run" >&2; return 1; }
        echo "$LAYOUT $ROOT" >"$folder/ready"
    fi
    wrappers_beside "$version" "$folder"
}

# 6.0.1 from the packages, 6.0.1-make and 6.0.1-cmake compiled here.
prepare_any() { case $1 in *-make | *-cmake) prepare_own "${1%-*}" "${1##*-}" ;; *) prepare "$1" ;; esac; }

# memguard.so in build/NAME, as its users build it: an own compile with --source and --modules.
build_any() {
    case $1 in
    *-make | *-cmake)
        prepare_any "$1" && (build_from "$BUILD/tree-${1%-*}" "$BUILD/$1/modules" '' "$1")
        ;;
    *) build_memguard "$1" ;;
    esac
}

# The programs of the packages that an own compile is tested with.
wrappers_beside() {
    local name
    for name in kamcmd sipp stunnel openssl; do [ ! -e "$BUILD/$1/bin/$name" ] || ln -sfn "../../$1/bin/$name" "$2/bin/$name"; done
}

compile_by_make() {
    local tree=$1 folder=$2 target
    cp -r "$tree/." "$folder/compile"
    # The grammar first: jobs that run side by side would both write it.
    # The group "none" is empty: without one, all that need no library of others are compiled.
    for target in cfg core/cfg.tab.c core/lex.yy.c kamailio every-module install-bin install-modules; do
        make -C "$folder/compile/src" -j"$(nproc)" PREFIX="$folder/root" LIBSSL_SET_MUTEX_SHARED=1 group_include=none include_modules="$OWN_MODULES" "$target" || return 1
    done
}

compile_by_cmake() {
    local tree=$1 folder=$2
    cmake -S "$tree" -B "$folder/compile" -DCMAKE_INSTALL_PREFIX="$folder/root" -DMODULE_GROUP_NAME= -DINCLUDE_MODULES="$OWN_MODULES" &&
        cmake --build "$folder/compile" -j"$(nproc)" &&
        cmake --install "$folder/compile"
}
