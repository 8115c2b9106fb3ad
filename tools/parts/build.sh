# shellcheck shell=bash
# Compiles memguard.so, and the modules and programs in C that tests and benchmarks load.
# Forbidden here: fetching (kamailio.sh and own.sh do); keeping a module that does not fit.

. tools/parts/own.sh
. tools/parts/source.sh

fits() { checker "$@" >&2; }

# build.rs gets the headers of exactly this Kamailio, and its modules, whose strings are the truth.
# What is built says nothing of where it was built: a package is the same from every checkout.
host_env() {
    export MEMGUARD_KAMAILIO_SRC=$1 MEMGUARD_KAMAILIO_MODULES=$2
    export RUSTFLAGS="--remap-path-prefix=$ROOT=memguard --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
}

# memguard.so in build/NAME, for the modules in a folder, with the headers in another.
build_module() {
    local name=$1 src=$2 modules=$3 target=$BUILD/target-${4:-$1} made
    mkdir -p "$BUILD/$name"
    made=$BUILD/$name/memguard.so.new
    (host_env "$src" "$modules" && quietly "memguard.so" "$BUILD/log/memguard-$name.log" \
        cargo rustc --release --lib --crate-type cdylib --no-default-features --features host --target-dir "$target") || return 1
    cp "$target/release/libmemguard.so" "$made"
    fits "$made" "$modules/pv.so" ||
        { rm -f "$made"; echo "dev: the module that was built does not fit $modules; it was thrown away" >&2; return 1; }
    mv -f "$made" "$BUILD/$name/memguard.so"
}

build_memguard() {
    local version=$1
    prepare "$version"
    note "building memguard.so for Kamailio $version"
    build_module "$version" "$BUILD/$version/src" "$BUILD/$version/modules"
}

# Compiler options for a module in C, the same that build.rs takes (src/fit/flags.rs).
defines() { checker --defines "$1/pv.so"; }

# A module in C for tests or benchmarks: NAME.so of VERSION, from SOURCE.
build_in_c() {
    local version=$1 name=$2 source=$3 folder=$BUILD/$1 options
    prepare_any "$version"
    [ -f "$folder/$name.so" ] && [ -z "$(find "$(dirname "$source")" tools/parts/build.sh -newer "$folder/$name.so")" ] && return
    mapfile -t options < <(defines "$folder/modules")
    cc -shared -fPIC -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -isystem "$folder/src" "${options[@]}" \
        -DMOD_NAME="\"$name\"" -DMOD_NAMEID="$name" "$source" -o "$folder/$name.so" || return 1
    fits "$folder/$name.so" "$folder/modules/pv.so"
}

# The stand-in for Kamailio (tests/module/standin): a program, with memguard's knowledge of fm's and qm's blocks.
# The stand-in for Kamailio: a program; and a library with its symbols, for the unit tests of the host layer.
build_standin() {
    standin_as "$1" standin -rdynamic && standin_as "$1" standin.so -shared -fPIC
}
standin_as() {
    local folder=$BUILD/$1 made=$BUILD/$1/$2 options
    [ -f "$made" ] && [ -z "$(find tests/module/standin c_shim tools/parts/build.sh -newer "$made")" ] && return
    mapfile -t options < <(defines "$folder/modules")
    cc -g -O1 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -fno-builtin-malloc -fno-builtin-calloc "${@:3}" \
        -isystem "$folder/src" -Ic_shim "${options[@]}" -DMOD_NAME='"standin"' -DMOD_NAMEID=standin \
        tests/module/standin/{host,layout_fm,layout_qm}.c -o "$made" -ldl -lpthread
}

build_package() { MEMGUARD_ROOT=$ROOT tools/package --kamailio "$1" >/dev/null; }

build_mgtest() { build_in_c "$1" mgtest tests/module/leaky/mgtest.c; }
