//! The Debian package: installed by dpkg into a root of its own, loaded by Kamailio from there, refused beside another
//! Kamailio, removed with nothing left; and what apt does with it when Kamailio is upgraded.
//! Forbidden here: touching the packages of this machine.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::harness::pairs::{Pair, skip};
use super::harness::{Server, for_each_pair};

const NAME: &str = "kamailio-memguard-module";

/// The package that `./dev package` built for this Kamailio.
fn package(pair: &Pair) -> Option<PathBuf> {
    let folder = version_folder(pair).join("deb");
    let files = fs::read_dir(&folder).into_iter().flatten().flatten();
    let found = files
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"));
    if found.is_none() {
        skip(&format!(
            "no package was built for Kamailio {}: run ./dev package",
            pair.kamailio.version
        ));
    }
    found
}

/// build/VERSION
fn version_folder(pair: &Pair) -> &Path {
    pair.kamailio.modules.parent().expect("build/VERSION")
}

/// The version of Debian's package that was unpacked.
fn debian_version(pair: &Pair) -> String {
    let text =
        fs::read_to_string(version_folder(pair).join("package")).expect("build/VERSION/package");
    text.trim().to_owned()
}

/// A folder in which dpkg and apt believe to be alone with one Kamailio.
struct Root(PathBuf);

impl Root {
    fn with_kamailio(name: &str, version: &str) -> Root {
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        for part in [
            "var/lib/dpkg/updates",
            "var/lib/dpkg/info",
            "apt/lists/partial",
            "apt/cache/archives/partial",
            "etc/kamailio",
        ] {
            fs::create_dir_all(folder.join(part)).expect("the folder is ours");
        }
        let entry = |name: &str, version: &str| {
            format!(
                "Package: {name}\nStatus: install ok installed\nMaintainer: nobody <nobody@example.org>\nArchitecture: {}\nVersion: {version}\nDescription: none\n\n",
                architecture()
            )
        };
        let status = [
            entry("kamailio", version),
            entry("libc6", "2.36-9"),
            entry("libgcc-s1", "12.2.0-14"),
        ];
        fs::write(folder.join("var/lib/dpkg/status"), status.concat()).expect("the folder is ours");
        Root(folder)
    }

    fn path(&self, inside: &str) -> PathBuf {
        self.0.join(inside)
    }

    fn dpkg(&self, words: &[&str]) -> (bool, String) {
        let root = format!("--root={}", self.0.display());
        // A container's dpkg may be told to leave documentation out; the maintainer script finds its root by DPKG_ROOT.
        let fixed = [
            &root,
            "--force-script-chrootless",
            "--force-bad-path",
            "--log=/dev/null",
            "--path-include=/usr/share/*",
        ];
        as_root("dpkg", &[&fixed, words].concat())
    }

    /// What apt would do: nothing is changed.
    fn apt(&self, words: &[&str]) -> (bool, String) {
        let inside = |option: &str, place: &str| format!("{option}={}", self.path(place).display());
        let options = [
            inside("Dir::State", "apt"),
            inside("Dir::State::status", "var/lib/dpkg/status"),
            inside("Dir::Cache", "apt/cache"),
            inside("Dir::Etc::sourcelist", "apt/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".into(),
            "Dir::Etc::preferencesparts=/dev/null".into(),
            "Debug::NoLocking=1".into(),
            "APT::Sandbox::User=".into(),
        ];
        let mut all: Vec<&str> = options.iter().flat_map(|option| ["-o", option]).collect();
        all.extend(words);
        run(Command::new("apt-get").args(all))
    }

    /// Every file and folder but dpkg's and apt's own books.
    fn content(&self) -> Vec<String> {
        let (good, text) = run(Command::new("find").arg(&self.0).args([
            "-not",
            "-path",
            "*/var/lib/dpkg*",
            "-not",
            "-path",
            "*/apt/*",
        ]));
        assert!(good, "{text}");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn architecture() -> String {
    run(Command::new("dpkg").arg("--print-architecture"))
        .1
        .trim()
        .to_owned()
}

/// Only root may give files to root; in a user namespace of our own we are.
fn as_root(program: &str, words: &[&str]) -> (bool, String) {
    // SAFETY: geteuid has no preconditions.
    let mut command = match unsafe { libc::geteuid() } {
        0 => Command::new(program),
        _ => {
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", program]);
            command
        }
    };
    run(command.args(words))
}

fn run(command: &mut Command) -> (bool, String) {
    let output = command
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our paths are UTF-8")
}

#[test]
fn package_is_installed_loaded_from_there_and_removed_without_a_trace() {
    for_each_pair(|pair| {
        let Some(deb) = package(pair) else { return };
        let root = Root::with_kamailio(
            &format!("deb{}{}", pair.kamailio.version, pair.manager),
            &debian_version(pair),
        );
        let before = root.content();
        let (good, said) = root.dpkg(&["-i", text(&deb)]);
        assert!(good, "{said}");
        let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
        let module = root.path(&format!("usr/lib/{triplet}/kamailio/modules/memguard.so"));

        // Kamailio runs with it, by the example that came with it.
        let mut installed = pair.clone();
        installed.kamailio.memguard = Some(module.clone());
        let example = root.path(&format!("usr/share/doc/{NAME}/examples/registrar.cfg"));
        let server = Server::registrar(&installed).file(&example).start();
        let maps = fs::read_to_string(format!("/proc/{}/maps", server.pid())).expect("it runs");
        assert!(
            maps.contains(text(&module)),
            "it is loaded from the package's place:\n{maps}"
        );
        assert_eq!(
            server.rpc("memguard.status", json!([]))["version"],
            env!("CARGO_PKG_VERSION")
        );
        let socket = format!("unix:{}", server.places.ctl().display());
        let plugin = root.path("usr/lib/nagios/plugins/check_memguard");
        let (good, said) =
            run(Command::new(plugin).args(["-k", text(&pair.kamailio.kamcmd), "-s", &socket]));
        assert!(good && said.starts_with("MEMGUARD OK - "), "{said}");
        server.stop();

        // What an operator asks before a restart.
        let fits = root.path("usr/bin/memguard-check");
        let (good, said) =
            run(Command::new(&fits).args([&module, &pair.kamailio.modules.join("pv.so")]));
        assert!(good && said.contains(" fits kamailio "), "{said}");
        let folder = module.parent().expect("a folder");
        std::os::unix::fs::symlink(pair.kamailio.modules.join("pv.so"), folder.join("pv.so"))
            .expect("the folder is ours");
        let (good, said) = run(Command::new(&fits).arg(folder));
        assert!(good && said.contains(" fits kamailio "), "{said}");
        fs::remove_file(folder.join("pv.so")).expect("it is ours");

        // The gate, with its page of the manual and the one that its page names.
        let gate = root.path("usr/bin/memguard-gate");
        let (good, said) = run(Command::new(&gate).arg("--help"));
        assert!(good && said.starts_with("usage: memguard-gate"), "{said}");
        for file in [
            "man/man1/memguard-gate.1.gz".to_owned(),
            format!("doc/{NAME}/docs/pipeline.md"),
        ] {
            assert!(root.path(&format!("usr/share/{file}")).is_file(), "{file}");
        }

        for file in [
            "memguard.rules.yml",
            "grafana-dashboard.json",
            "zabbix-template.json",
        ] {
            let own = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("monitoring")
                .join(file);
            assert_eq!(
                fs::read(root.path(&format!("usr/share/kamailio-memguard/{file}"))).ok(),
                fs::read(own).ok(),
                "{file}"
            );
        }

        // The drop-in is an example: nothing that systemd reads came with the package.
        let example = root.path(&format!(
            "usr/share/doc/{NAME}/examples/memguard-observe.conf"
        ));
        assert_eq!(
            fs::read_to_string(example).ok().as_deref(),
            Some(include_str!("../../systemd/memguard-observe.conf"))
        );
        let active = root
            .content()
            .into_iter()
            .find(|path| path.contains("/systemd/"));
        assert_eq!(active, None);

        // A configuration that goes on to load it is told of in time; dpkg removes it all the same.
        let configuration = root.path("etc/kamailio/kamailio.cfg");
        fs::write(
            &configuration,
            "# loadmodule \"memguard.so\"\nloadmodule \"memguard.so\"\n",
        )
        .expect("the folder is ours");
        let (good, said) = root.dpkg(&["--purge", NAME]);
        assert!(good && said.contains("still loads memguard.so"), "{said}");
        fs::remove_file(&configuration).expect("it is ours");
        assert_eq!(root.content(), before);
        let drop_in = root.path("etc/systemd/system/kamailio.service.d/memguard-observe.conf");
        let folder = drop_in.parent().expect("a folder");
        fs::create_dir_all(folder).expect("the folder is ours");
        fs::write(
            &drop_in,
            include_str!("../../systemd/memguard-observe.conf"),
        )
        .expect("ours");
        assert!(root.dpkg(&["-i", text(&deb)]).0);
        let (good, said) = root.dpkg(&["--purge", NAME]);
        assert!(
            good && said.contains("service.d still loads memguard.so"),
            "{said}"
        );
        fs::remove_dir_all(root.path("etc/systemd")).expect("it is ours");

        // No such line, no such word.
        fs::write(&configuration, "# loadmodule \"memguard.so\"\n").expect("the folder is ours");
        assert!(root.dpkg(&["-i", text(&deb)]).0);
        let (good, said) = root.dpkg(&["--purge", NAME]);
        assert!(good && !said.contains("still loads"), "{said}");
    });
}

#[test]
fn package_is_refused_beside_another_kamailio() {
    for_each_pair(|pair| {
        let Some(deb) = package(pair) else { return };
        let own = debian_version(pair);
        for other in ["9.9.9-1", &format!("{own}+b1"), "5.6.3-1"] {
            let root = Root::with_kamailio(
                &format!("not{}{}", pair.kamailio.version, pair.manager),
                other,
            );
            let (good, said) = root.apt(&["-s", "install", text(&deb)]);
            assert!(
                !good && said.contains(&format!("Depends: kamailio (= {own})")),
                "apt beside {other}: {said}"
            );
            let (good, said) = root.dpkg(&["-i", text(&deb)]);
            assert!(
                !good && said.contains(&format!("depends on kamailio (= {own})")),
                "dpkg beside {other}: {said}"
            );
            let (_, said) = root.dpkg(&["-s", NAME]);
            assert!(!said.contains("install ok installed"), "{said}");
        }
    });
}

/// A package of nothing, for apt's books.
fn empty_package(root: &Root, name: &str, version: &str, more: &str) -> PathBuf {
    let folder = root.path(&format!("apt/{name}"));
    fs::create_dir_all(folder.join("DEBIAN")).expect("the folder is ours");
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: {}\nMaintainer: nobody <nobody@example.org>\n{more}Description: none\n",
        architecture()
    );
    fs::write(folder.join("DEBIAN/control"), control).expect("the folder is ours");
    let deb = root.path(&format!("apt/{name}_{version}.deb"));
    let (good, said) = run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "--build"])
        .args([&folder, &deb]));
    assert!(good, "{said}");
    deb
}

#[test]
fn package_holds_an_upgrade_of_kamailio_back_and_goes_along_when_its_own_is_given() {
    const NEXT: &str = "9.9.9-1";
    for_each_pair(|pair| {
        let Some(deb) = package(pair) else { return };
        let root = Root::with_kamailio(
            &format!("up{}{}", pair.kamailio.version, pair.manager),
            &debian_version(pair),
        );
        assert!(root.dpkg(&["-i", text(&deb)]).0);
        let kamailio = empty_package(&root, "kamailio", NEXT, "");
        let next = empty_package(
            &root,
            NAME,
            &format!("9.9+{NEXT}"),
            &format!("Depends: kamailio (= {NEXT})\n"),
        );

        // An archive that has the new Kamailio only.
        let archive = root.path("apt/archive");
        fs::create_dir_all(&archive).expect("the folder is ours");
        let size = fs::metadata(&kamailio).expect("it is there").len();
        let (good, sum) = run(Command::new("sha256sum").arg(&kamailio));
        assert!(good, "{sum}");
        let sum = sum.split_whitespace().next().expect("a sum").to_owned();
        fs::copy(&kamailio, archive.join("kamailio.deb")).expect("the folder is ours");
        let control =
            fs::read_to_string(root.path("apt/kamailio/DEBIAN/control")).expect("it is there");
        fs::write(
            archive.join("Packages"),
            format!("{control}Filename: ./kamailio.deb\nSize: {size}\nSHA256: {sum}\n"),
        )
        .expect("ours");
        fs::write(
            root.path("apt/sources.list"),
            format!("deb [trusted=yes] file:{} ./\n", archive.display()),
        )
        .expect("ours");
        let (good, said) = root.apt(&["update"]);
        assert!(good, "{said}");
        let (good, said) = root.apt(&["-s", "upgrade"]);
        assert!(
            good && said.contains("kept back") && !said.contains("Inst "),
            "{said}"
        );

        // Both together: the new module lies there before the new Kamailio is configured, which restarts it.
        let (good, said) = root.apt(&["-s", "install", text(&kamailio), text(&next)]);
        assert!(good && !said.contains("Remv "), "{said}");
        let at = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what}: {said}"));
        assert!(
            at(&format!("Inst {NAME} ")) < at("Conf kamailio "),
            "{said}"
        );
    });
}

#[test]
fn package_is_the_same_bytes_when_it_is_built_again() {
    let is_done = Cell::new(false);
    for_each_pair(|pair| {
        let Some(deb) = package(pair) else { return };
        if is_done.replace(true) {
            return; // one is enough: what differs is the module only
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("deb-again-{}", std::process::id()));
        let command = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/package");
        let (good, said) = run(Command::new(command)
            .args(["--kamailio", &pair.kamailio.version])
            .env("MEMGUARD_DEB", &folder));
        let again = fs::read(folder.join(deb.file_name().expect("a name"))).ok();
        let _ = fs::remove_dir_all(&folder);
        assert!(good, "{said}");
        assert!(
            again == fs::read(&deb).ok(),
            "the bytes differ from those of {}: if that was built at another commit, run ./dev package",
            deb.display()
        );
    });
}
