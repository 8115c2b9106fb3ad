//! The ways in, as they are typed: ./dev install, ./dev build --source up to the compiler, packages of whoever, and what
//! is said when something does not fit. On real files, in folders of our own.
//! Forbidden here: a Kamailio (its modules are two strings in a shared object here); the packages of this machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const FLAGS: &str = "USE_TCP, USE_FUTEX, DBG_SR_MEMORY";

/// A folder that goes with its test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("install-{name}-{}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
        Folder(folder)
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.0.join(inside)
    }

    /// A file with what leads to it.
    fn write(&self, inside: &str, text: &str) -> PathBuf {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("ours");
        fs::write(&path, text).expect("the folder is ours");
        path
    }

    /// A program of this name in the folder `bin`.
    fn program(&self, name: &str, text: &str) {
        let path = self.write(&format!("bin/{name}"), &format!("#!/bin/sh\n{text}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("ours");
    }

    /// A module as the loader sees it.
    fn module(&self, inside: &str, version: &str, flags: &str) -> PathBuf {
        let source = self.write(
            "module.c",
            &format!("char *module_version = \"{version}\";\nchar *module_flags = \"{flags}\";\n"),
        );
        let path = self.path(inside);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("ours");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .args([&path, &source])
            .status();
        assert!(status.expect("cc runs").success());
        path
    }

    /// A Kamailio that is installed here: modules, and a program that says where they are.
    fn kamailio(&self, version: &str) -> PathBuf {
        self.module("modules/pv.so", version, FLAGS);
        let modules = self.path("modules");
        let said = format!(
            "echo '  Default config: {}'; echo '  Default paths to modules: /nowhere:{}'",
            self.path("etc/kamailio.cfg").display(),
            modules.display()
        );
        self.program("kamailio", &said);
        modules
    }

    /// A source tree that says its version to make and to CMake.
    fn tree(&self, inside: &str, version: [u32; 3]) -> PathBuf {
        let [x, y, z] = version;
        self.write(
            &format!("{inside}/src/Makefile.defs"),
            &format!("VERSION = {x}\nPATCHLEVEL = {y}\nSUBLEVEL = {z}\nEXTRAVERSION =\n"),
        );
        self.write(
            &format!("{inside}/CMakeLists.txt"),
            &format!("project(kamailio VERSION {x}.{y}.{z})\n"),
        );
        self.write(&format!("{inside}/src/core/ver_defs.h"), "");
        self.path(inside)
    }

    /// `./dev WORDS`, with the programs of the folder before those of the machine; status and all that is said.
    fn dev(&self, words: &[&str]) -> (i32, String) {
        self.run(Command::new(root().join("dev")).args(words))
    }

    fn run(&self, command: &mut Command) -> (i32, String) {
        let path = std::env::var("PATH").unwrap_or_default();
        let output = command
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("SUDO_USER", "somebody") // memguard-check as it was built, not by cargo
            .env_remove("DESTDIR")
            .env("LC_ALL", "C")
            .current_dir(&self.0)
            .output()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let text = [output.stdout, output.stderr].concat();
        let status = output.status.code().expect("it ends by itself");
        (status, String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our paths are UTF-8")
}

/// One sentence that has all of these.
#[track_caller]
fn assert_refused((status, said): (i32, String), wanted: &[&str]) {
    assert!(status != 0, "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 1, "one sentence: {said}");
    for word in wanted {
        assert!(said.contains(word), "{word}: {said}");
    }
}

const V601: &str = "kamailio 6.0.1 (x86_64/linux)";

#[test]
fn install_copies_upgrades_and_takes_away_where_kamailio_says_its_modules_are() {
    let here = Folder::new("whole");
    let modules = here.kamailio(V601);
    let built = here.module("built/memguard.so", V601, FLAGS);
    let there = modules.join("memguard.so");
    let (status, said) = here.dev(&["install", "built/memguard.so"]);
    assert_eq!(status, 0, "{said}");
    assert_eq!(fs::read(&there).ok(), fs::read(&built).ok());
    let config = here.path("etc/kamailio.cfg");
    for line in [
        format!("installed: {}, which fits 6.0.1", there.display()),
        format!("-f {}", config.display()),
        "kamcmd memguard.status".to_owned(),
    ] {
        assert!(said.contains(&line), "{line}: {said}");
    }
    let mode = fs::metadata(&there)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o644);

    // A Kamailio that runs has the old file mapped: it must stay as it is.
    let running = fs::File::open(&there).expect("it is there");
    fs::write(
        &built,
        [fs::read(&built).expect("ours"), vec![0; 9]].concat(),
    )
    .expect("ours");
    let (status, said) = here.dev(&["install", "--modules", text(&modules), text(&built)]);
    assert_eq!(status, 0, "{said}");
    let (old, new) = (
        running.metadata().expect("open"),
        fs::metadata(&there).expect("there"),
    );
    assert_eq!(
        old.len() + 9,
        new.len(),
        "a new file took the name of the old one"
    );
    let names = |folder: &Path| {
        let mut names: Vec<_> = fs::read_dir(folder)
            .expect("a folder")
            .map(|e| {
                e.expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("a name")
            })
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names(&modules),
        ["memguard.so", "pv.so"],
        "nothing else is left"
    );

    here.write(
        "etc/kamailio.cfg",
        "loadmodule \"tm.so\"\n  loadmodule \"memguard.so\"\n",
    );
    let (status, said) = here.dev(&["install", "--uninstall"]);
    assert_eq!(status, 0, "{said}");
    assert!(
        said.contains("uninstalled: ")
            && said.contains(&format!("while {} loads", config.display())),
        "{said}"
    );
    assert_eq!(names(&modules), ["pv.so"]);
    let (status, said) = here.dev(&["install", "--uninstall"]);
    assert!(
        status == 0 && said.contains("nothing to uninstall"),
        "{said}"
    );
}

#[test]
fn install_for_a_package_writes_below_destdir_only() {
    let here = Folder::new("destdir");
    let modules = here.kamailio(V601);
    here.module("built/memguard.so", V601, FLAGS);
    let destdir = here.path("stage/of root");
    let line = format!(
        "DESTDIR='{}' exec '{}/dev' \"$@\"",
        destdir.display(),
        root().display()
    );
    let staged =
        |words: &[&str]| here.run(Command::new("sh").args(["-c", &line, "sh"]).args(words));
    let (status, said) = staged(&["install", "built/memguard.so"]);
    assert_eq!(status, 0, "{said}");
    let there = PathBuf::from(format!(
        "{}{}/memguard.so",
        destdir.display(),
        modules.display()
    ));
    assert!(there.is_file(), "{said}");
    assert!(!modules.join("memguard.so").exists());
    assert_eq!(staged(&["install", "--uninstall"]).0, 0);
    assert!(!there.exists());
}

#[test]
fn install_refuses_in_one_sentence_what_would_stop_kamailio() {
    let here = Folder::new("refused");
    let modules = here.kamailio(V601);
    let refused = |words: &[&str], wanted: &[&str]| {
        assert_refused(here.dev(&[&["install"], words].concat()), wanted);
        assert!(!modules.join("memguard.so").exists(), "{words:?}");
    };
    here.module("other.so", "kamailio 6.0.2 (x86_64/linux)", FLAGS);
    refused(
        &["other.so"],
        &["6.0.2", "6.0.1 is installed", "./dev build"],
    );
    here.module("flags.so", V601, "USE_TCP, USE_FUTEX");
    refused(&["flags.so"], &["other flags", "DBG_SR_MEMORY"]);
    here.module("cmake.so", "kamailio 6.0.1 (x86_64/Linux)", FLAGS);
    refused(&["cmake.so"], &["another build", "CMake"]);
    here.write("text.so", "no module");
    refused(&["text.so"], &["text.so", "not a 64-bit"]);
    refused(&["nothing.so"], &["nothing.so", "No such file"]);
    refused(&["--modules", "nowhere"], &["nowhere/pv.so", "--modules"]);
    refused(&["--modules"], &["--modules needs"]);
    refused(&["--prefix"], &["--prefix", "known are"]);
    refused(&["--uninstall", "other.so"], &["takes no module"]);

    // What dpkg or rpm brought is theirs.
    here.module("built.so", V601, FLAGS);
    fs::copy(here.path("built.so"), modules.join("memguard.so")).expect("ours");
    here.program(
        "dpkg-query",
        "case $2 in */memguard.so) echo \"kamailio-memguard-module: $2\" ;; *) exit 1 ;; esac",
    );
    for words in [["install", "built.so"], ["install", "--uninstall"]] {
        assert_refused(here.dev(&words), &["package kamailio-memguard-module"]);
        assert!(modules.join("memguard.so").exists());
    }
}

#[test]
fn install_without_the_right_to_write_says_so_and_leaves_nothing() {
    let here = Folder::new("no-root");
    let modules = here.kamailio(V601);
    here.module("built.so", V601, FLAGS);
    fs::set_permissions(&modules, fs::Permissions::from_mode(0o555)).expect("ours");
    // Root may write everywhere: without that right, and in somebody else's folder, it may not.
    // SAFETY: geteuid has no preconditions.
    let is_root = unsafe { libc::geteuid() } == 0;
    let dev = root().join("dev");
    let mut command = Command::new(if is_root { Path::new("setpriv") } else { &dev });
    if is_root {
        std::os::unix::fs::chown(&modules, Some(65534), None).expect("root may");
        command
            .arg("--bounding-set=-dac_override,-dac_read_search")
            .arg(&dev);
    }
    let said = here.run(command.args(["install", "built.so"]));
    fs::set_permissions(&modules, fs::Permissions::from_mode(0o755)).expect("ours");
    assert_refused(said, &["not writable", "sudo ./dev install"]);
    assert_eq!(fs::read_dir(&modules).expect("a folder").count(), 1);
}

#[test]
fn source_trees_that_will_not_do_are_refused_in_one_sentence_before_anything_is_compiled() {
    let here = Folder::new("source");
    let modules = here.kamailio(V601);
    let refused = |words: &[&str], wanted: &[&str]| {
        assert_refused(here.dev(&[&["build"], words].concat()), wanted);
    };
    here.tree("right", [6, 0, 1]);
    here.tree("newer", [6, 0, 7]);
    here.tree("older", [5, 8, 4]);
    fs::create_dir(here.path("empty")).expect("ours");
    refused(
        &["--source", "empty"],
        &["empty is no source tree", "src/core/ver_defs.h"],
    );
    refused(
        &["--source", "nowhere"],
        &["nowhere is no source tree", "No such file"],
    );
    here.write("mute/src/core/ver_defs.h", "");
    refused(
        &["--source", "mute"],
        &["mute is no source tree", "says a version"],
    );
    refused(
        &["--source", "older"],
        &["5.8.4", "6.0.1", "kamailio-6.0.1_src.tar.gz"],
    );
    refused(&["--source", "older", "--nearest"], &["5.8.4", "6.0.1"]);
    refused(&["--source", "newer"], &["6.0.7", "6.0.1", "--nearest"]);
    refused(
        &["--source", "right", "--modules", "empty"],
        &["empty/pv.so", "--modules"],
    );
    refused(
        &["--source", "right", "--kamailio", "6.0.1"],
        &["one of them"],
    );
    refused(&["--nearest"], &["--source"]);
    refused(&["--source"], &["--source needs"]);
    refused(&["--soruce", "right"], &["--soruce", "known are"]);
    // Modules of another build than the tree.
    here.module("others/pv.so", "kamailio 6.1.4 (x86_64/Linux)", FLAGS);
    refused(
        &["--source", "right", "--modules", "others"],
        &["6.0.1", "6.1.4"],
    );
    here.write("broken/pv.so", "no module");
    refused(
        &["--source", "right", "--modules", "broken"],
        &["broken/pv.so", "not a 64-bit"],
    );

    // What will do is taken, by its root and by its folder src, with a warning where it is only near.
    let judged = |tree: &str, more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_memguard-check"))
            .args(["--tree", text(&here.path(tree))])
            .args(more)
            .arg(modules.join("pv.so"))
            .output()
            .expect("memguard-check runs");
        assert!(output.status.success(), "{tree}: {output:?}");
        let [path, warning] =
            [output.stdout, output.stderr].map(|b| String::from_utf8(b).expect("text"));
        assert!(path.trim().ends_with("/src"), "{path}");
        warning
    };
    assert_eq!(judged("right", &[]), "");
    assert_eq!(judged("right/src", &[]), "");
    assert!(judged("newer", &["--nearest"]).contains("6.0.7"));
}

#[test]
fn check_names_what_does_not_fit_after_an_upgrade_and_what_to_type() {
    let here = Folder::new("check");
    let modules = here.kamailio(V601);
    let check = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_memguard-check"));
        here.run(command.args(words))
    };
    let (status, said) = check(&[text(&modules)]);
    assert_eq!(status, 2, "{said}");
    for word in ["no memguard.so in", "6.0.1", "./dev build"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let module = here.module("modules/memguard.so", V601, FLAGS);
    assert_eq!(check(&[text(&modules)]).0, 0);
    let (status, said) = here.dev(&["check"]);
    assert!(
        status == 0 && said.contains("memguard.so fits kamailio 6.0.1"),
        "{said}"
    );
    // Kamailio is upgraded, the module stays.
    for (version, flags, words) in [
        (
            "kamailio 6.0.2 (x86_64/linux)",
            FLAGS,
            ["built for Kamailio 6.0.1", "6.0.2 is installed"],
        ),
        (
            "kamailio 6.1.5 (x86_64/Linux)",
            FLAGS,
            ["built for Kamailio 6.0.1", "6.1.5 is installed"],
        ),
        (
            "kamailio 6.0.1 (x86_64/Linux)",
            FLAGS,
            ["another build", "CMake"],
        ),
        (
            V601,
            "USE_TCP, USE_FUTEX",
            [
                "only the module has: DBG_SR_MEMORY",
                "only Kamailio has: none",
            ],
        ),
    ] {
        here.module("modules/pv.so", version, flags);
        for (status, said) in [
            here.dev(&["check"]),
            check(&[text(&modules)]),
            check(&[text(&module), text(&modules.join("pv.so"))]),
        ] {
            assert_eq!(status, 1, "{said}");
            for word in
                words
                    .iter()
                    .chain(&["would not start", "build it again", "do not restart it"])
            {
                assert!(said.contains(word), "{word}: {said}");
            }
        }
    }
    let (status, said) = check(&[text(&here.path("nowhere.so"))]);
    assert!(status == 2 && said.contains("nowhere.so"), "{said}");
}

#[test]
fn the_page_of_memguard_check_has_every_option() {
    let output = Command::new(env!("CARGO_BIN_EXE_memguard-check"))
        .arg("--help")
        .output()
        .expect("it runs");
    let help = String::from_utf8(output.stdout).expect("text");
    let page = fs::read_to_string(root().join("debian/memguard-check.1")).expect("it is there");
    let page = page.replace('\\', "");
    let options: Vec<&str> = help
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .filter(|word| word.starts_with("--"))
        .collect();
    assert!(options.len() >= 5, "{help}");
    for option in options {
        assert!(
            page.contains(option),
            "{option} is not in debian/memguard-check.1"
        );
    }
}

#[test]
fn a_kamailio_that_is_no_package_is_told_to_name_its_tree() {
    let here = Folder::new("unpackaged");
    here.kamailio("kamailio 6.1.4 (x86_64/Linux)");
    here.program("dpkg-query", "exit 1");
    assert_refused(
        here.dev(&["build"]),
        &["6.1.4", "no package of dpkg's", "--source DIR"],
    );
}

/// What a function of tools/parts/kamailio.sh answers, on a machine whose dpkg says that `installed` is.
fn shell(here: &Folder, installed: &str, line: &str) -> (i32, String) {
    here.program(
        "dpkg-query",
        &format!("case \"$*\" in *kamailio*) printf 'ii  {installed}' ;; *) exit 1 ;; esac"),
    );
    let script = format!(
        "cd '{}' && . tools/parts/say.sh && . tools/parts/kamailio.sh && BUILD='{}' ETC_APT='{}' && codename() {{ echo bookworm; }} && {line}",
        root().display(),
        here.path("build").display(),
        here.path("etc/apt").display()
    );
    here.run(Command::new("bash").args(["-c", &script]))
}

#[test]
fn versions_of_packages_are_cut_to_the_release_that_kamailio_calls_itself() {
    let here = Folder::new("versions");
    for (package, release) in [
        ("6.1.3+bpo13", "6.1.3"),
        ("5.8.4+bpo12", "5.8.4"),
        ("6.0.1-1+deb13u2", "6.0.1"),
        ("5.6.3-2", "5.6.3"),
        ("5.8.2~dev1+bpo12.20240101", "5.8.2"),
        ("1:6.0.1-2", "6.0.1"),
        ("5.7.4-1build7", "5.7.4"),
        ("6.1.0~rc1-1", "6.1.0"),
    ] {
        let (status, said) = shell(
            &here,
            package,
            "upstream \"$(installed_package)\"; default_version; suite_of \"$(default_version)\"",
        );
        assert_eq!(
            (status, said.as_str()),
            (0, format!("{release}\n{release}\ninstalled\n").as_str())
        );
    }
}

/// An archive of packages in a folder, as the Kamailio project's own: a binary package, and its source beside it.
fn archive(here: &Folder, version: &str) {
    let name = format!("kamailio-{version}");
    here.tree(&format!("tree/{name}"), [6, 1, 3]);
    let run = |line: String| {
        let (status, said) = here.run(Command::new("sh").args(["-ec", &line]));
        assert_eq!(status, 0, "{said}");
        said.trim().to_owned()
    };
    let tar = format!("kamailio_{version}.tar.gz");
    fs::create_dir_all(here.path("archive/pool")).expect("ours");
    run(format!("tar -czf archive/pool/{tar} -C tree {name}"));
    let architecture = run("dpkg --print-architecture".into());
    let control = format!(
        "Package: kamailio\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: nobody <nobody@example.org>\nDescription: none\n"
    );
    here.write("deb/DEBIAN/control", &control);
    run("dpkg-deb --root-owner-group --build deb archive/pool/kamailio.deb".into());
    let sum = |file: &str| {
        let said = run(format!(
            "sha256sum archive/pool/{file}; stat -c %s archive/pool/{file}"
        ));
        let words: Vec<&str> = said.split_whitespace().collect();
        (words[0].to_owned(), words[2].to_owned())
    };
    let (hash, size) = sum("kamailio.deb");
    here.write(
        &format!("archive/dists/bookworm/main/binary-{architecture}/Packages"),
        &format!("{control}Filename: pool/kamailio.deb\nSize: {size}\nSHA256: {hash}\n"),
    );
    let (hash, size) = sum(&tar);
    let checks = format!("Checksums-Sha256:\n {hash} {size} {tar}\n");
    let dsc = format!("kamailio_{version}.dsc");
    here.write(
        &format!("archive/pool/{dsc}"),
        &format!(
            "Format: 3.0 (native)\nSource: kamailio\nBinary: kamailio\nVersion: {version}\n{checks}"
        ),
    );
    let (dsc_hash, dsc_size) = sum(&dsc);
    here.write(
        "archive/dists/bookworm/main/source/Sources",
        &format!(
            "Package: kamailio\nBinary: kamailio\nVersion: {version}\nFormat: 3.0 (native)\nDirectory: pool\n{checks} {dsc_hash} {dsc_size} {dsc}\n"
        ),
    );
    here.write(
        "archive/dists/bookworm/Release",
        &format!(
            "Suite: bookworm\nCodename: bookworm\nComponents: main\nArchitectures: {architecture}\n"
        ),
    );
}

#[test]
fn headers_of_the_projects_own_packages_come_from_the_machines_own_sources() {
    for style in ["list", "sources"] {
        let here = Folder::new(&format!("apt-{style}"));
        archive(&here, "6.1.3+bpo12");
        let at = here.path("archive").display().to_string();
        let (file, source) = match style {
            "list" => (
                "kamailio.list",
                format!("deb [trusted=yes] file:{at} bookworm main\n"),
            ),
            _ => (
                "kamailio.sources",
                format!(
                    "Types: deb\n# one of the project's\nURIs: file:{at}\nSuites: bookworm\nComponents: main\nTrusted: yes\n"
                ),
            ),
        };
        here.write(&format!("etc/apt/sources.list.d/{file}"), &source);
        let (status, said) = shell(
            &here,
            "6.1.3+bpo12",
            "conf=$(package_lists 6.1.3) && package=$(newest_of \"$conf\" 6.1.3) && mkdir \"$BUILD/fetch\" && fetch_source \"$conf\" \"$package\" \"$BUILD/fetch\" && echo \"$package\" && tar -tf \"$(source_archive \"$BUILD/fetch\")\"",
        );
        assert_eq!(status, 0, "{said}");
        assert!(
            said.contains("6.1.3+bpo12\n") && said.contains("/src/core/ver_defs.h"),
            "{said}"
        );
        // A version that these sources do not have is refused with those that they have.
        let (status, said) = shell(&here, "6.1.9+bpo12", "prepare 6.1.9");
        assert!(
            status == 3
                && said.contains("no source of packages has Kamailio 6.1.9")
                && said.contains("6.1.3+bpo12"),
            "{said}"
        );
    }
}

#[test]
fn the_rpm_holds_what_its_users_need_and_wants_exactly_its_kamailio() {
    let is_there = Command::new("rpmbuild").arg("--version").output();
    if !is_there.is_ok_and(|output| output.status.success()) {
        println!("rpmbuild is not here: the RPM's recipe is not checked (apt-get install rpm)");
        return;
    }
    let here = Folder::new("rpm");
    let module = here.module("built/memguard.so", V601, FLAGS);
    let programs = Path::new(env!("CARGO_BIN_EXE_memguard-check"));
    let script = format!(
        "cd '{}' && . tools/parts/say.sh && . tools/parts/source.sh && rpm_of '{}' '{}' /usr/lib64/kamailio/modules '{}' 2>/dev/null",
        root().display(),
        module.display(),
        programs.parent().expect("a folder").display(),
        here.path("rpm").display()
    );
    let (status, said) = here.run(Command::new("bash").args(["-c", &script]));
    assert_eq!(status, 0, "{said}");
    let rpm = said.trim().to_owned();
    let ask = |what: &str| here.run(Command::new("rpm").args(["-qp", what, &rpm])).1;
    let files = ask("--list");
    let doc = "/usr/share/doc/kamailio-memguard-module";
    for file in [
        "/usr/lib64/kamailio/modules/memguard.so".to_owned(),
        "/usr/bin/memguard-check".to_owned(),
        "/usr/share/man/man1/memguard-check.1".to_owned(),
        "/usr/share/kamailio-memguard/check_memguard".to_owned(),
        format!("{doc}/docs/install.md"),
        format!("{doc}/examples/memguard-observe.conf"),
    ] {
        assert!(files.lines().any(|line| line == file), "{file}: {files}");
    }
    let active = files
        .lines()
        .find(|l| l.contains("/systemd/") || l.starts_with("/etc"));
    assert_eq!(active, None, "nothing is active by itself");
    assert!(
        ask("--requires")
            .lines()
            .any(|line| line == "kamailio = 6.0.1")
    );
    assert!(ask("--scripts").contains("loadmodule[^#]*memguard"));
}
