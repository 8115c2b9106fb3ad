//! Says whether a module fits a Kamailio: the loader compares two strings byte for byte and stops the server on a difference.
//! Forbidden here: loading the files (a module that does not fit cannot be loaded); they are only read. What is said is `fit`'s.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use memguard::fit::advice::{self, Way};
use memguard::fit::release::Release;
use memguard::fit::{Strings, flags, tree};

const USAGE: &str = "usage: memguard-check [MODULE.so [REFERENCE.so] | FOLDER]\n\
    Prints MODULE's version and flags; with REFERENCE (any module of the Kamailio in question, pv.so say)\n\
    exits 0 when both strings are equal, 1 when not. 2: a file cannot be read.\n\
    With FOLDER: memguard.so in it against pv.so in it; without arguments in the folder where Kamailio's modules mostly are.\n\
    \x20 --folder                        prints that folder\n\
    \x20 --release MODULE.so             prints X.Y.Z of the Kamailio that MODULE.so was built for\n\
    \x20 --defines MODULE.so             prints the compiler options that MODULE.so was built with\n\
    \x20 --tree DIR [--nearest] PV.so    exits 0 and prints the folder of headers when modules for PV.so can be built from\n\
    \x20                                 Kamailio's source tree DIR; --nearest: another patch level will do";

/// Where modules are: the packages of Debian and of the Kamailio project, RPMs, own compiles.
const USUAL: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/kamailio/modules",
    "/usr/lib/aarch64-linux-gnu/kamailio/modules",
    "/usr/lib64/kamailio/modules",
    "/usr/lib/kamailio/modules",
    "/usr/local/lib64/kamailio/modules",
    "/usr/local/lib/kamailio/modules",
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["-h" | "--help"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [] => folder_in_use().and_then(|folder| in_folder(&folder)),
        ["--folder"] => usual_folder().map(|folder| {
            println!("{}", folder.display());
            true
        }),
        ["--release", module] => release(Path::new(module)),
        ["--defines", module] => defines(Path::new(module)),
        ["--tree", tree, module] => headers(Path::new(tree), Path::new(module), false),
        ["--tree", tree, "--nearest", module] => headers(Path::new(tree), Path::new(module), true),
        [folder] if Path::new(folder).is_dir() => in_folder(Path::new(folder)),
        [module] if !module.starts_with('-') => print(Path::new(module)),
        [module, reference] if !module.starts_with('-') => {
            compare(Path::new(module), Path::new(reference))
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(sentence) => {
            eprintln!("memguard-check: {sentence}");
            ExitCode::from(2)
        }
    }
}

/// The first usual folder that has modules.
fn usual_folder() -> Result<PathBuf, String> {
    let is_there = |folder: &&&str| Path::new(folder).join("pv.so").is_file();
    USUAL.iter().find(is_there).map(PathBuf::from).ok_or_else(|| {
        format!(
            "no Kamailio was found in {}; name its folder of modules (kamailio -I says it: Default paths to modules)",
            USUAL.join(", ")
        )
    })
}

/// The first that has memguard.so as well: a machine may have a package of Kamailio and an own compile.
fn folder_in_use() -> Result<PathBuf, String> {
    let has_both = |folder: &&&str| {
        let has = |name: &str| Path::new(folder).join(name).is_file();
        has("pv.so") && has("memguard.so")
    };
    USUAL
        .iter()
        .find(has_both)
        .map(PathBuf::from)
        .map_or_else(usual_folder, Ok)
}

fn in_folder(folder: &Path) -> Result<bool, String> {
    let pv = folder.join("pv.so");
    if pv.is_file() && !folder.join("memguard.so").exists() {
        let release = strings_of(&pv)?.identity()?.release.to_string();
        return Err(format!(
            "there is no memguard.so in {}, where Kamailio {release} has its modules: a configuration that loads it stops Kamailio at its start. To have it: {}",
            folder.display(),
            Way::of(&pv.to_string_lossy()).how(&release)
        ));
    }
    compare(&folder.join("memguard.so"), &folder.join("pv.so"))
}

fn print(module: &Path) -> Result<bool, String> {
    let strings = strings_of(module)?;
    println!("{}\n{}", strings.version, strings.flags);
    Ok(true)
}

fn release(module: &Path) -> Result<bool, String> {
    println!("{}", strings_of(module)?.identity()?.release);
    Ok(true)
}

fn defines(module: &Path) -> Result<bool, String> {
    let strings = strings_of(module)?;
    for define in flags::defines(&strings.identity()?, &strings.flags) {
        println!("-D{define}");
    }
    Ok(true)
}

fn compare(module: &Path, reference: &Path) -> Result<bool, String> {
    let (ours, theirs) = (strings_of(module)?, strings_of(reference)?);
    let (of, with) = (module.display(), reference.display());
    if ours == theirs {
        println!("{of} fits {} ({with})", theirs.version);
        return Ok(true);
    }
    for (name, ours, theirs) in [
        ("module_version", &ours.version, &theirs.version),
        ("module_flags", &ours.flags, &theirs.flags),
    ] {
        if ours != theirs {
            println!(
                "{name} differs, so Kamailio would not start:\n  {ours}  <- {of}\n  {theirs}  <- {with}"
            );
        }
    }
    advice::on(&ours, &theirs, Way::of(&reference.to_string_lossy()))
        .iter()
        .for_each(|line| println!("{line}"));
    Ok(false)
}

/// Prints the folder of headers of a tree that will do, and on stderr what to beware of; the error says why it will not.
fn headers(folder: &Path, module: &Path, nearest: bool) -> Result<bool, String> {
    let installed = strings_of(module)?.identity()?;
    let (src, releases) = tree_of(folder)?;
    if let Some(warning) = tree::judge(&releases, &installed, nearest)? {
        eprintln!("memguard-check: {warning}");
    }
    println!("{}", src.display());
    Ok(true)
}

/// The folder of headers and the releases that a source tree says, of which the root or its folder src is named.
fn tree_of(folder: &Path) -> Result<(PathBuf, Vec<Release>), String> {
    let no_tree = |what: &str| {
        format!(
            "{} is no source tree of Kamailio: {what}; name the folder that an unpacked kamailio-X.Y.Z_src.tar.gz or a checkout has at its root",
            folder.display()
        )
    };
    let root = fs::canonicalize(folder).map_err(|e| no_tree(&e.to_string()))?;
    let src = [root.join("src"), root]
        .into_iter()
        .find(|src| src.join("core/ver_defs.h").is_file())
        .ok_or_else(|| no_tree("there is no src/core/ver_defs.h"))?;
    let read = |file: PathBuf| fs::read_to_string(file).unwrap_or_default();
    let make = tree::of_makefile(&read(src.join("Makefile.defs")));
    let cmake = tree::of_cmake(&read(src.join("../CMakeLists.txt")));
    let releases: Vec<Release> = make.into_iter().chain(cmake).collect();
    if releases.is_empty() {
        return Err(no_tree(
            "neither src/Makefile.defs nor CMakeLists.txt says a version",
        ));
    }
    Ok((src, releases))
}

fn strings_of(path: &Path) -> Result<Strings, String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Strings::of(&bytes).map_err(|what| format!("{} {what}", path.display()))
}
