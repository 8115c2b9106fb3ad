# shellcheck shell=bash
# Runs the kinds of tests and counts: passed, failed, skipped.
# Forbidden here: a skip that is not counted and named.
# shellcheck disable=SC2034 # the lists of pairs are used where this is sourced

VERSIONS=(5.6.3 6.0.1)
# The default of the suite: every test on both versions, each with another manager; then the small set on tlsf.
QUICK_PAIRS=5.6.3:qm,6.0.1:fm
TLSF_PAIRS=6.0.1:tlsf
TLSF_TESTS=(smoke every_manager)
# A Kamailio of one's own, compiled here (own.sh): one of the two in the suite, both in the matrix.
OWN_PAIRS=6.0.1-cmake:qm
OWN_MATRIX_PAIRS=6.0.1-make:qm,6.0.1-make:fm,6.0.1-cmake:qm,6.0.1-cmake:fm
OWN_TESTS=(smoke accounting classes three_lines)
MATRIX_PAIRS=5.6.3:qm,5.6.3:fm,5.6.3:tlsf,6.0.1:qm,6.0.1:fm,6.0.1:tlsf

# Servers are started by so many tests at a time: they wait more than they compute, but are held to deadlines.
MODULE_THREADS=${MEMGUARD_TEST_THREADS:-3}

passed=0 failed=0 skipped=0 linted=no hosted=no complaints=()
required() { [ "${MEMGUARD_REQUIRE:-}" = 1 ] || [ "${CI:-}" = true ]; }

fail() { failed=$((failed + ${2:-1})); complaints+=("FAILED: $1"); }
skip() {
    if required; then fail "$1 (skipping is not allowed here)"; else skipped=$((skipped + 1)) complaints+=("SKIP: $1"); fi
}

# One command that is one check.
check() {
    local what=$1
    shift
    note "$what"
    if "$@"; then passed=$((passed + 1)); else fail "$what"; fi
    printf '   %s: done at %s\n' "$what" "$(elapsed)"
}

versions_of() { tr ',' '\n' <<<"$1" | sed 's/:.*//' | sort -u; } # of pairs

# A run of cargo test: what it says it ran is counted. A test that could not run says so in a file.
tests() {
    # Of this run alone: two runs in one checkout must not read each other's verdict.
    local what=$1 log=$BUILD/log/test-${1//[^A-Za-z0-9.]/-}.$$.log skips=$BUILD/log/skips.$$ status=0 counts
    shift
    note "$what"
    mkdir -p "$BUILD/log"
    : >"$skips"
    MEMGUARD_SKIPS=$skips "$@" 2>&1 | tee "$log" || status=$?
    read -r -a counts < <(sed 's/\x1b\[[0-9;]*m//g' "$log" | awk '/^test result:/ {
        for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i-1); if ($i ~ /^failed/) f += $(i-1); if ($i ~ /^ignored/) s += $(i-1) } }
        END { print p + 0, f + 0, s + 0 }')
    local none
    none=$(sort -u "$skips" | wc -l)
    passed=$((passed + counts[0] - none))
    skipped=$((skipped + none)) # what is marked "ignore" is a longer command of its own
    while read -r line; do complaints+=("SKIP: $line"); done < <(sort -u "$skips")
    rm -f "$skips"
    if ((counts[1] > 0)); then fail "$what: see $log" "${counts[1]}"; elif ((status != 0)); then fail "$what did not run to its end: see $log"; fi
    printf '   %s: done at %s\n' "$what" "$(elapsed)"
}

named_tests() { # the test targets that need nothing but Rust
    local file
    for file in tests/*.rs; do
        [ -f "$file" ] && [[ $file != tests/loom* ]] && printf -- '--test\n%s\n' "$(basename "$file" .rs)"
    done
    return 0
}

test_unit() {
    local targets
    test_shell
    # Debian packages Rust without these two: a newcomer's machine still runs all that tests behaviour.
    if cargo fmt --version >/dev/null 2>&1; then check "formatting" cargo fmt --check; else note "no rustfmt here: formatting is not checked"; fi
    if cargo clippy --version >/dev/null 2>&1; then check "clippy" cargo clippy -q --all-targets -- -D warnings; else note "no clippy here: lints are not checked"; fi
    mapfile -t targets < <(named_tests)
    tests "unit and process tests" cargo test --lib --bins "${targets[@]}"
    check "links in the code's documentation" env RUSTDOCFLAGS="-D warnings" cargo doc -q --no-deps --lib --document-private-items
    tests "documentation tests" cargo test --doc
}

test_loom() {
    local file
    for file in tests/loom*.rs; do
        [ -f "$file" ] || continue
        tests "model check $(basename "$file" .rs)" env RUSTFLAGS="--cfg loom" cargo test --release \
            --target-dir "$BUILD/target-loom" --test "$(basename "$file" .rs)"
    done
}

# Everything that one version of Kamailio needs; adds its line to the table that the tests read.
ready_version() {
    local version=$1 status=0
    (need_tools && prepare_any "$version") || status=$?
    if [ $status = 3 ]; then skip "Kamailio $version: see above"; return; elif [ $status != 0 ]; then fail "Kamailio $version could not be prepared"; return; fi
    # One version is enough: the code is the same for all, and each is compiled.
    if [ $linted = no ] && cargo clippy --version >/dev/null 2>&1; then linted=yes && check "clippy with Kamailio $version" host_clippy "$version"; fi
    if [ $hosted = no ] && build_standin "$version"; then hosted=yes && tests "unit tests of the host layer, Kamailio $version" host_units "$version"; fi
    check "memguard.so fits Kamailio $version" build_any "$version"
    check "mgtest.so fits Kamailio $version" build_mgtest "$version"
    check "stand-in for Kamailio $version" build_standin "$version"
    into_table "$version"
}

# The table that tests/module/harness/pairs.rs reads.
new_table() { mkdir -p "$BUILD"; printf '#version\tkamailio\tkamcmd\tsipp\tmodules\tmemguard.so\tmgtest.so\n' >"$BUILD/kamailios.txt"; }
into_table() {
    local folder=$BUILD/$1 memguard=-
    [ -f "$folder/memguard.so" ] && memguard=$folder/memguard.so
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$folder/bin/kamailio" "$folder/bin/kamcmd" "$folder/bin/sipp" \
        "$folder/modules" "$memguard" "$folder/mgtest.so" >>"$BUILD/kamailios.txt"
}

host_clippy() {
    (host_env "$BUILD/$1/src" "$BUILD/$1/modules" && cargo clippy -q --lib --no-default-features --features host --target-dir "$BUILD/target-$1" -- -D warnings)
}

# They name Kamailio's symbols, which the stand-in has: it is loaded before them, and none of them calls any.
host_units() {
    host_env "$BUILD/$1/src" "$BUILD/$1/modules"
    RUSTFLAGS+=" -C link-arg=-Wl,--unresolved-symbols=ignore-all"
    cargo test --lib --features host --target-dir "$BUILD/target-host" \
        --config "target.'cfg(all())'.runner = ['env', 'LD_PRELOAD=$BUILD/$1/standin.so']" host::
}

test_module() {
    local pairs=$1 version
    shift
    new_table
    for version in $(versions_of "$pairs"); do ready_version "$version"; done
    if [[ ${1:-package} = *package* ]]; then
        for version in $(versions_of "$pairs"); do check "Debian package for Kamailio $version" build_package "$version"; done
    fi
    (prepare_prometheus) || complaints+=("Prometheus is not here; see above")
    (prepare_pprof) || complaints+=("pprof is not here; see above")
    (prepare_valgrind) || complaints+=("valgrind is not here; see above")
    (prepare_schemas) || complaints+=("the schemas of SARIF and JUnit are not here; see above")
    (prepare_ip) || complaints+=("ip is not here; see above")
    MEMGUARD_VALGRIND=$(valgrind_program)
    export MEMGUARD_VALGRIND MEMGUARD_KAMAILIOS=$BUILD/kamailios.txt MEMGUARD_PROMETHEUS=$BUILD/prometheus/bin MEMGUARD_PPROF=$BUILD/pprof/pprof MEMGUARD_SCHEMAS=$BUILD/schemas
    tests "real Kamailio, $pairs" env MEMGUARD_PAIRS="$pairs" cargo test --test module -- --test-threads="$MODULE_THREADS" "$@"
}

# The module in Kamailios that were compiled here. One that lacks what compiles it is a skip, as any other.
test_own() {
    local pairs=$1 version
    for version in $(versions_of "$pairs"); do ready_own "$version"; done
    tests "own compile, $pairs" env MEMGUARD_PAIRS="$pairs" MEMGUARD_KAMAILIOS="$BUILD/kamailios.txt" cargo test --test module -- --test-threads="$MODULE_THREADS" "${OWN_TESTS[@]}"
}
ready_own() {
    local version=$1 status=0
    (need_tools && prepare_any "$version") || status=$?
    if [ $status = 3 ]; then skip "Kamailio $version: see above"; return; elif [ $status != 0 ]; then fail "Kamailio $version could not be compiled"; return; fi
    # Nothing is measured with it: without link-time optimisation, as the newcomer's.
    check "memguard.so by --source fits Kamailio $version" env_of_a_quick_build build_any "$version"
    check "mgtest.so fits Kamailio $version" build_mgtest "$version"
    check "a tree of another release is refused ($version)" refuses_other_trees "$version"
    into_table "$version"
}

env_of_a_quick_build() { local -x CARGO_PROFILE_RELEASE_LTO=off && "$@"; }

# Debian's own binary of the tree's release takes it; another series is refused, another patch level needs --nearest.
refuses_other_trees() {
    local tree=$BUILD/tree-${1%-*} other=$BUILD/tree-other status=0
    checker --tree "$tree" "$BUILD/${1%-*}/modules/pv.so" >/dev/null || return 1
    ! checker --tree "$tree" "$BUILD/5.6.3/modules/pv.so" 2>/dev/null || { echo "dev: a tree of 6.0.1 was taken for 5.6.3" >&2; return 1; }
    rm -rf "$other"
    mkdir -p "$other/src"
    ln -s "$tree/src/core" "$other/src/core"
    sed 's/^SUBLEVEL *=.*/SUBLEVEL = 7/' "$tree/src/Makefile.defs" >"$other/src/Makefile.defs"
    ! checker --tree "$other" "$BUILD/6.0.1/modules/pv.so" >/dev/null 2>&1 || status=1
    checker --tree "$other" --nearest "$BUILD/6.0.1/modules/pv.so" >/dev/null 2>&1 || status=1
    rm -rf "$other"
    return $status
}

# The shell scripts; on a machine without shellcheck this is a skip, but not one that CI minds.
test_shell() {
    local scripts
    if command -v shellcheck >/dev/null; then
        mapfile -t scripts < <(find tools tests/clients -maxdepth 1 -type f -executable -exec grep -lE '^#!.*(bash|/sh)$' {} +)
        check "shellcheck" shellcheck -S warning -x dev .ci/run tools/parts/*.sh "${scripts[@]}"
    else
        note "shellcheck is not here: the scripts are not checked (apt-get install shellcheck)"
    fi
}

verdict() {
    [ ${#complaints[@]} -eq 0 ] || printf '%s\n' "${complaints[@]}"
    printf 'took %s\n%d passed, %d failed, %d skipped\n' "$(elapsed)" "$passed" "$failed" "$skipped"
    [ "$failed" = 0 ]
}

