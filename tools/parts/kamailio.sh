# shellcheck shell=bash
# Kamailio's Debian packages: fetched and unpacked into build/VERSION, once.
# Forbidden here: anything outside ./build, except one announced apt-get install.

LAYOUT=3 # of build/VERSION: raise it when prepare() changes what it makes

ETC_APT=/etc/apt # where this machine's sources of packages are

need_tools() {
    local packages=()
    command -v cc >/dev/null || packages+=(gcc libc6-dev)
    if ! compgen -G "/usr/lib/llvm-*/lib/libclang.so*" >/dev/null || ! compgen -G "/usr/lib/llvm-*/lib/clang/*/include/stddef.h" >/dev/null; then
        [ -n "${LIBCLANG_PATH:-}" ] || packages+=(libclang-dev)
    fi
    [ -f /etc/protocols ] || packages+=(netbase) # a minimal Debian lacks it, and Kamailio says ERROR: it finds no number of TCP
    command -v cargo >/dev/null || blocked "cargo is missing: install Rust 1.85 or later (rustup.rs)"
    [ ${#packages[@]} -eq 0 ] && return
    local line="apt-get install -y --no-install-recommends ${packages[*]}"
    [ "$(id -u)" = 0 ] || blocked "please run as root: $line"
    note "installing ${packages[*]} (a C compiler for the shim, libclang for the bindings, netbase for /etc/protocols)"
    install_packages "${packages[@]}" || blocked "this failed: $line"
}

# The machine's own apt-get, announced by who calls this; its lists are fetched when they are too old or none.
install_packages() {
    local line=(env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@") log=$BUILD/log/apt-install.log
    quietly "installing $*" "$log" "${line[@]}" 2>/dev/null || { quietly "package lists" "$log" apt-get -q update && quietly "installing $*" "$log" "${line[@]}"; }
}

# Debian has no package of Kamailio's headers, so they come from the source package; the binaries are unpacked
# into ./build as well, so that no Kamailio needs to be installed, no service starts and no root is needed.

codename() { (. /etc/os-release && echo "${VERSION_CODENAME:-unknown}"); }
# Of a package: 6.1.3+bpo13, 6.0.1-1+deb13u1, 5.8.2~dev1 and 1:6.0.1-2 are 6.1.3, 6.0.1, 5.8.2 and 6.0.1.
upstream() { local v=${1#*:}; echo "${v%%[-+~]*}"; }

# The package that is installed, whoever made it; nothing without one.
installed_package() { dpkg-query -W -f '${db:Status-Abbrev}${Version}' kamailio 2>/dev/null | sed -n 's/^ii *//p' || true; }

# "installed": the machine's own sources, all of them, for what it has installed (the Kamailio project's own packages, Ubuntu's).
suite_of() {
    if [ "$(upstream "$(installed_package)")" = "$1" ]; then echo installed; return; fi
    case $1 in
    5.6*) echo bookworm ;;
    6.0*) echo trixie ;;
    6.1*) echo sid ;;
    *) die "Kamailio $1 is in no Debian release known here; known are 5.6 (bookworm), 6.0 (trixie) and 6.1 (sid)" ;;
    esac
}

origin() { if [ "$1" = installed ]; then echo "this machine's own sources"; else echo "Debian $1"; fi; }

# The installed Kamailio decides; without one, the release of this machine.
default_version() {
    local installed
    installed=$(installed_package)
    if [ -n "$installed" ]; then
        upstream "$installed"
    elif [ "$(codename)" = trixie ]; then
        echo 6.0.1
    else
        echo 5.6.3
    fi
}

# The system's own Debian sources, for another suite and with source packages; the system itself is not changed.
write_sources() {
    local suite=$1 folder=$2 own file wanted=debian unwanted='kamailio[.]org'
    own=$(codename)
    [ "$suite" != installed ] || suite=$own wanted=. unwanted='^$'
    rm -rf "$folder"
    mkdir -p "$folder"
    for file in "$ETC_APT"/sources.list "$ETC_APT"/sources.list.d/*.list; do
        [ -f "$file" ] && sed -nE "s/^deb(-src)?[[:space:]]+(\[[^]]*\][[:space:]]+)?([^ ]+)[[:space:]]+$own(-updates|-security)?[[:space:]]/&/p" "$file" |
            grep -E "$wanted" | grep -vE "$unwanted" |
            sed -E "s/^deb(-src)?[[:space:]]/deb /; s/([[:space:]])$own(-updates|-security)?([[:space:]])/\1$suite\2\3/" |
            sort -u | { [ "$suite" = sid ] && grep -Ev 'sid-(updates|security)' || cat; } |
            sed -E 'p; s/^deb /deb-src /' >>"$folder/own.list"
    done
    for file in "$ETC_APT"/sources.list.d/*.sources; do
        [ -f "$file" ] || continue
        awk -v own="$own" -v suite="$suite" -v wanted="$wanted" -v unwanted="$unwanted" -v RS= -v ORS='\n\n' '
            {
                n = split($0, lines, "\n"); text = ""; suites = ""; debian = 0
                for (i = 1; i <= n; i++) {
                    line = lines[i]
                    if (line ~ /^#/) continue
                    if (tolower(line) ~ /^uris:/ && line ~ wanted && line !~ unwanted) debian = 1
                    if (tolower(line) ~ /^types:/) line = "Types: deb deb-src"
                    if (tolower(line) ~ /^suites:/) {
                        m = split(line, words, /[ \t]+/)
                        for (j = 2; j <= m; j++)
                            if (words[j] ~ "^" own "(-updates|-security)?$" && (suite != "sid" || words[j] == own)) {
                                sub("^" own, suite, words[j]); suites = suites " " words[j]
                            }
                        line = "Suites:" suites
                    }
                    text = text line "\n"
                }
                if (debian && suites != "") print text
            }' "$file" >>"$folder/own.sources"
    done
    find "$folder" -type f -empty -delete
    [ -n "$(ls "$folder")" ] || blocked "no Debian source for suite $own was found in $ETC_APT/sources.list*, so none for $suite can be made"
}

# apt with sources, lists, cache and installed-package database of its own, in build/apt/SUITE.
apt_conf() {
    local folder=$BUILD/apt/$1
    mkdir -p "$folder"/{lists/partial,cache/archives/partial,empty}
    : >"$folder/status"
    cat >"$folder/apt.conf" <<CONF
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$folder/sources";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "$folder/empty";
Dir::State "$folder";
Dir::State::Lists "$folder/lists";
Dir::State::status "$folder/status";
Dir::State::extended_states "$folder/extended_states";
Dir::Cache "$folder/cache";
Dir::Cache::archives "$folder/cache/archives";
Dir::Log "$folder";
Debug::NoLocking "1";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Get::Assume-Yes "1";
APT::Install-Recommends "0";
APT::Sandbox::User "$(id -un)";
CONF
    echo "$folder/apt.conf"
}

WANTED=(kamailio kamailio-extra-modules kamailio-tls-modules kamailio-websocket-modules kamailio-python3-modules
    kamailio-lua-modules kamailio-sqlite-modules kamailio-presence-modules sip-tester stunnel4)
# What these depend on by their maintainer scripts or for command line tools, and never load.
UNNEEDED='^(perl|perl-base|perl-modules-.*|libperl.*|systemd.*|dpkg|tar|coreutils|bash|debconf|adduser|passwd|util-linux|mount|login.*|sed|gawk|mawk|base-passwd|init-system-helpers|python3-minimal|mysql-common|tzdata|media-types|sysvinit-utils|libpam.*)_'

# Fetches the lists of the suite that has this version; prints the configuration for apt.
package_lists() {
    local suite conf
    suite=$(suite_of "$1")
    [ "$suite" ] || exit 1
    write_sources "$suite" "$BUILD/apt/$suite/sources"
    conf=$(apt_conf "$suite")
    quietly "package lists of $suite" "$BUILD/log/apt-update-$suite.log" apt-get -q -c "$conf" update ||
        blocked "the package lists of $(origin "$suite") could not be fetched (is there a network?)"
    echo "$conf"
}

# Every version of Kamailio in these lists, the newest first.
offered() { apt-cache -c "$1" madison kamailio | awk -F' *[|] *' '{print $2}' | sort -ruV; }

# The newest package whose upstream version is this one or begins with it and a dot.
newest_of() {
    local package
    for package in $(offered "$1"); do
        [[ $(upstream "$package"). = "$2".* ]] && { echo "$package"; return; }
    done
    return 0
}

# The archive of a source package into a folder. Its signature file (.asc) is missing on some mirrors; only the archive counts.
fetch_source() {
    local conf=$1 package=$2 folder=$3 log=$BUILD/log/apt-source-$2
    (cd "$folder" && quietly "source of Kamailio $package" "$log.log" \
        apt-get -q -c "$conf" source --download-only "kamailio=$package" 2>"$log.err") ||
        [ -n "$(source_archive "$folder")" ] ||
        { tail -n 5 "$log.err" >&2; blocked "the source of kamailio $package could not be fetched"; }
}
# Native packages (the Kamailio project's own) have one archive, Debian's an .orig beside what Debian adds.
source_archive() { find "$1" -maxdepth 1 -name '*.tar.*z*' ! -name '*.asc' ! -name '*.debian.tar.*' | head -1; }

# Makes build/VERSION from the packages of its suite: wrappers of programs, modules, src. Once.
prepare() {
    local wanted=$1 suite conf package folder debs libc own_libc
    suite=$(suite_of "$wanted")
    folder=$BUILD/$wanted
    [ "$(cat "$folder/ready" 2>/dev/null)" = "$LAYOUT" ] && { wrappers "$folder"; return; }
    note "Kamailio $wanted: fetching its packages and its source ($(origin "$suite"))"
    conf=$(package_lists "$wanted")
    package=$(installed_package) # to the byte, where it is still offered
    [ "$suite" = installed ] && offered "$conf" | grep -qxF "$package" || package=$(newest_of "$conf" "$wanted")
    [ -n "$package" ] || blocked "no source of packages has Kamailio $wanted ($(origin "$suite") has: $(offered "$conf" | tr '\n' ' '))"

    rm -rf "$folder"
    mkdir -p "$folder/fetch" "$folder/root" "$folder/bin"
    debs=$BUILD/apt/$suite/cache/archives
    rm -f "$debs"/*.deb
    fetch_source "$conf" "$package" "$folder/fetch"
    tar -xf "$(source_archive "$folder/fetch")" -C "$folder/fetch" --wildcards '*/src/*.h' ||
        die "the source archive in $folder/fetch holds no headers"
    mv "$(compgen -G "$folder/fetch/*/src" | sed -n 1p)" "$folder/src"
    quietly "packages of Kamailio $package" "$BUILD/log/apt-packages-$wanted.log" \
        apt-get -q -c "$conf" --download-only install "${WANTED[@]/#kamailio*/&=$package}" ||
        blocked "the packages of Kamailio $package could not be fetched"

    # The newer C library runs programs made for the older one, never the other way: take the machine's if it is newer.
    libc=$(ls "$debs" | sed -nE 's/^libc6_(.*)_[a-z0-9]+\.deb$/\1/p')
    own_libc=$(dpkg-query -W -f '${Version}' libc6:"$(dpkg --print-architecture)" 2>/dev/null || echo 0)
    local with_own_libc=no file
    dpkg --compare-versions "$own_libc" ge "${libc//%3a/:}" && with_own_libc=yes
    mkdir -p "$folder/root/usr"/{lib,lib64,bin,sbin}
    ln -s usr/lib usr/lib64 usr/bin usr/sbin "$folder/root/"
    for file in "$debs"/*.deb; do
        [[ $(basename "$file") =~ $UNNEEDED ]] && continue
        [[ $with_own_libc = yes && $(basename "$file") = libc6_* ]] && continue
        dpkg-deb --fsys-tarfile "$file" | tar -x -C "$folder/root" --keep-directory-symlink --no-same-owner \
            --exclude='./usr/share/doc' --exclude='./usr/share/man' --exclude='./usr/share/locale' --exclude='./dev'
    done
    rm -rf "$folder/fetch" "$BUILD/apt/$suite"
    wrappers "$folder"
    ln -sfn "root/usr/lib/$TRIPLET/kamailio/modules" "$folder/modules"
    [ -f "$folder/modules/pv.so" ] || die "the packages of Kamailio $package hold no pv.so below $folder/root"
    [[ $("$folder/bin/kamailio" -v) = *" $wanted "* ]] || die "$folder/bin/kamailio does not run"
    echo "$package" >"$folder/package"
    echo "$LAYOUT" >"$folder/ready"
}


# The programs of build/VERSION/root that tests and examples start. Written each time: the checkout may have moved.
wrappers() {
    local name
    mkdir -p "$1/bin"
    for name in usr/sbin/kamailio usr/sbin/kamcmd usr/bin/sipp usr/bin/stunnel4 usr/bin/openssl; do
        wrapper "$1" "$(basename "${name%4}")" "$name"
    done
}
# A program of build/VERSION/root that runs without chroot; exec, so that its pid is the pid that was started.
wrapper() {
    local folder=$1 name=$2 program=$1/root/$3 libs path python
    libs=$folder/root/usr/lib/$TRIPLET
    path=$libs:$libs/kamailio # Kamailio's modules look for its own libraries (libsrdb1) where the package would put them
    python=$(find "$folder/root/usr/lib" -maxdepth 1 -name 'python3.*' | sed -n 1p)
    {
        echo '#!/bin/sh'
        # app_python3 finds its standard library from PYTHONHOME only, as this Python is not where it was built for.
        [ -n "$python" ] && [ "$name" = kamailio ] && echo "export PYTHONHOME='$folder/root/usr'"
        if [ ! -e "$libs/libc.so.6" ]; then # the machine's own is newer: see prepare()
            echo "export LD_LIBRARY_PATH='$path'"
            echo "exec '$program' \"\$@\""
        else
            echo "exec '$libs/ld-linux-${ARCH//_/-}.so.2' --library-path '$path' '$program' \"\$@\""
        fi
    } >"$folder/bin/.$name.$$"
    chmod +x "$folder/bin/.$name.$$"
    mv "$folder/bin/.$name.$$" "$folder/bin/$name"
}

# An option --kamailio VERSION, or the default; "6.1" and "6.1.x" mean whatever 6.1 Debian has.
version_option() {
    local version
    version=$(default_version)
    while [ $# -gt 0 ]; do
        case $1 in
        --kamailio) version=${2:?--kamailio needs a version, 6.0.1 say}; shift 2 ;;
        *) die "unknown option $1; known is --kamailio VERSION" ;;
        esac
    done
    resolve "${version%.x}"
}

# A whole version from its beginning: one that is here already, else what its Debian suite offers.
resolve() {
    local wanted=$1 ready conf
    [[ $wanted = *.*.* ]] && { echo "$wanted"; return; }
    ready=$(ls -d "$BUILD/$wanted".*/ready 2>/dev/null | tail -1)
    [ -n "$ready" ] && { basename "$(dirname "$ready")"; return; }
    conf=$(package_lists "$wanted")
    ready=$(newest_of "$conf" "$wanted")
    [ -n "$ready" ] && { upstream "$ready"; return; }
    blocked "$(origin "$(suite_of "$wanted")") has no Kamailio $wanted (it has: $(offered "$conf" | tr '\n' ' '))"
}
