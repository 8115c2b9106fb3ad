# shellcheck shell=bash
# Other programs that tests need, unpacked into build from this machine's own Debian release.
# Forbidden here: anything outside ./build; starting a service.

# Prometheus and promtool for the tests, from this machine's own Debian release: unpacked only, nothing is started.
prepare_prometheus() {
    local folder=$BUILD/prometheus conf
    [ -f "$folder/ready" ] && return
    note "Prometheus: fetching its package"
    case $(codename) in trixie) conf=$(package_lists 6.0) ;; *) conf=$(package_lists 5.6) ;; esac
    rm -rf "$folder"
    mkdir -p "$folder/fetch"
    (cd "$folder/fetch" && quietly "package of Prometheus" "$BUILD/log/apt-prometheus.log" apt-get -q -c "$conf" download prometheus) ||
        blocked "the package prometheus could not be fetched"
    dpkg-deb --fsys-tarfile "$folder"/fetch/prometheus_*.deb | tar -x -C "$folder" --no-same-owner ./usr/bin
    mv "$folder/usr/bin" "$folder/bin"
    rm -rf "$folder/fetch" "${folder:?}/usr"
    "$folder/bin/promtool" --version >/dev/null 2>&1 || blocked "$folder/bin/promtool does not run on this machine"
    touch "$folder/ready"
}

# pprof for the tests, out of the Go tools of this machine's own Debian release: this one program only.
prepare_pprof() {
    local folder=$BUILD/pprof conf package
    [ -f "$folder/ready" ] && return
    note "pprof: fetching the package of Go's tools"
    case $(codename) in trixie) conf=$(package_lists 6.0) ;; *) conf=$(package_lists 5.6) ;; esac
    package=$(apt-cache -c "$conf" depends golang-go | sed -nE 's/.*Depends: (golang-[0-9.]+-go)$/\1/p' | head -1)
    rm -rf "$folder"
    mkdir -p "$folder/fetch"
    (cd "$folder/fetch" && quietly "package ${package:-golang-go}" "$BUILD/log/apt-pprof.log" apt-get -q -c "$conf" download "${package:-golang-go}") ||
        blocked "the package ${package:-golang-go} could not be fetched"
    dpkg-deb --fsys-tarfile "$folder"/fetch/golang-*.deb | tar -x -C "$folder" --no-same-owner --wildcards '*/pkg/tool/*/pprof'
    mv "$(find "$folder/usr" -type f -name pprof | head -1)" "$folder/pprof"
    rm -rf "$folder/fetch" "${folder:?}/usr"
    "$folder/pprof" -h 2>&1 | grep -q -- -top || blocked "$folder/pprof does not run on this machine"
    touch "$folder/ready"
}

# valgrind for the tests: this machine's own if it works, else unpacked; it needs the C library's symbols.
prepare_valgrind() {
    local folder=$BUILD/valgrind conf libc deb
    if valgrind -q true 2>/dev/null || [ -f "$folder/ready" ]; then return; fi
    note "valgrind: fetching its package"
    case $(codename) in trixie) conf=$(package_lists 6.0) ;; *) conf=$(package_lists 5.6) ;; esac
    libc=$(dpkg-query -W -f '${Version}' "libc6:$(dpkg --print-architecture)")
    rm -rf "$folder"
    mkdir -p "$folder/fetch" "$folder/root"
    (cd "$folder/fetch" && quietly "package of valgrind" "$BUILD/log/apt-valgrind.log" apt-get -q -c "$conf" download valgrind "libc6-dbg=$libc") ||
        blocked "the packages valgrind and libc6-dbg could not be fetched"
    for deb in "$folder"/fetch/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$folder/root" --no-same-owner --exclude='./usr/share'
    done
    rm -rf "$folder/fetch"
    printf '#!/bin/sh\nVALGRIND_LIB=%s exec %s --extra-debuginfo-path=%s "$@"\n' "'$folder/root/usr/libexec/valgrind'" \
        "'$folder/root/usr/bin/valgrind.bin'" "'$folder/root/usr/lib/debug'" >"$folder/valgrind"
    chmod +x "$folder/valgrind"
    "$folder/valgrind" -q true || blocked "$folder/valgrind does not run on this machine"
    touch "$folder/ready"
}
valgrind_program() { if [ -f "$BUILD/valgrind/ready" ]; then echo "$BUILD/valgrind/valgrind"; else echo valgrind; fi; }

# The published schemas of the gate's reports, and a program that reads XSD, for the tests. The crate serde-sarif carries
# OASIS's file, and junit-report those of Jenkins and of Ant.
prepare_schemas() {
    local folder=$BUILD/schemas conf lib name packages
    [ -f "$folder/ready" ] && return
    note "schemas of SARIF and JUnit: fetching"
    rm -rf "$folder"
    mkdir -p "$folder/fetch" "$folder/root"
    printf '[package]\nname = "schemas"\n[lib]\npath = "none.rs"\n[dependencies]\nserde-sarif = "=0.8.0"\njunit-report = "=0.9.1"\n[workspace]\n' >"$folder/fetch/Cargo.toml"
    touch "$folder/fetch/none.rs"
    (cd "$folder/fetch" && quietly "crates with schemas" "$BUILD/log/schemas.log" cargo metadata -q --format-version 1) || blocked "crates with schemas could not be fetched"
    carried() { dirname "$(grep -o "\"manifest_path\":\"[^\"]*/$1/Cargo.toml\"" "$BUILD/log/schemas.log" | head -1 | cut -d'"' -f4)"; }
    cp "$(carried serde-sarif-0.8.0)/src/schema.json" "$folder/sarif-2.1.0.json"
    cp "$(carried junit-report-0.9.1)/tests/JUnit.xsd" "$folder/junit-jenkins.xsd"
    cp "$(carried junit-report-0.9.1)/tests/JUnit-alternative.xsd" "$folder/junit-ant.xsd"
    if ! command -v xmllint >/dev/null; then
        case $(codename) in trixie) conf=$(package_lists 6.0) ;; *) conf=$(package_lists 5.6) ;; esac
        mapfile -t packages < <(apt-cache -c "$conf" depends libxml2-utils libxml2 | sed -nE 's/^ *Depends: ([a-z0-9.+-]+)$/\1/p' | grep -vx libc6 | sort -u)
        (cd "$folder/fetch" && quietly "package of xmllint" "$BUILD/log/apt-xmllint.log" apt-get -q -c "$conf" download libxml2-utils "${packages[@]}") ||
            blocked "the package libxml2-utils could not be fetched"
        for name in "$folder"/fetch/*.deb; do dpkg-deb --fsys-tarfile "$name" | tar -x -C "$folder/root" --no-same-owner --exclude='./usr/share'; done
        lib=$folder/root/usr/lib/$(uname -m)-linux-gnu:$folder/root/lib/$(uname -m)-linux-gnu
        printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "'$lib'" "'$folder/root/usr/bin/xmllint'" >"$folder/xmllint"
        chmod +x "$folder/xmllint"
    else
        ln -s "$(command -v xmllint)" "$folder/xmllint"
    fi
    rm -rf "$folder/fetch"
    "$folder/xmllint" --version >/dev/null 2>&1 || blocked "$folder/xmllint does not run on this machine"
    touch "$folder/ready"
}

# ip for the tests' network namespaces, which root alone can make; without it those tests are skips.
prepare_ip() {
    if [ "$(id -u)" != 0 ] || command -v ip >/dev/null; then return; fi
    note "installing iproute2 (ip, for network namespaces of tests)"
    install_packages iproute2 || blocked "this failed: apt-get install -y iproute2"
}
