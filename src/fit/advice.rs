//! What to tell who has a module that does not fit: which of the strings differs, in what, and what to do.
//! Forbidden here: commands of one distribution where it is not known which one it is.

use crate::fit::Strings;

/// How a Kamailio came here, as the folder of its modules tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A package of Debian, of Ubuntu, or of the Kamailio project for them.
    Deb,
    /// A package of RHEL and its kin.
    Rpm,
    /// Compiled by its owner.
    Own,
    /// Another folder: a container, a copy.
    Unknown,
}

impl Way {
    /// By the path of an installed module, `pv.so` say.
    pub fn of(module: &str) -> Way {
        let below = |folder: &str| module.starts_with(folder);
        if below("/usr/local/") || below("/opt/") {
            Way::Own
        } else if below("/usr/lib64/") {
            Way::Rpm
        } else if below("/usr/lib/") && module.contains("-linux-gnu/") {
            Way::Deb
        } else {
            Way::Unknown
        }
    }

    /// What to type for a module that fits this release.
    pub fn how(self, release: &str) -> String {
        match self {
            Way::Deb => format!(
                "./dev package --kamailio {release} and apt-get install what it names; without a package ./dev build, then sudo ./dev install"
            ),
            Way::Rpm => format!(
                "unpack the source of exactly this version, kamailio-{release}_src.tar.gz, then ./dev build --source DIR and sudo ./dev install"
            ),
            Way::Own => format!(
                "./dev build --source DIR with the tree that {release} was compiled from, then sudo ./dev install"
            ),
            Way::Unknown => "for a package of Debian or of the Kamailio project: ./dev build; for an own compile or an RPM: ./dev build --source ITS_TREE; then ./dev install".to_owned(),
        }
    }
}

/// Sentences, a line each; none: the module fits.
pub fn on(module: &Strings, installed: &Strings, way: Way) -> Vec<String> {
    let mut lines = Vec::new();
    if module == installed {
        return lines;
    }
    let release = installed
        .identity()
        .map(|theirs| theirs.release.to_string());
    let how = || way.how(release.as_deref().unwrap_or("X.Y.Z"));
    match (module.identity(), installed.identity()) {
        (Ok(ours), Ok(theirs)) if ours.release != theirs.release => lines.push(format!(
            "It was built for Kamailio {}, but {} is installed: build it again ({}).",
            ours.release,
            theirs.release,
            how()
        )),
        (Ok(ours), Ok(theirs)) if ours != theirs => lines.push(format!(
            "It was built for Kamailio {} of another build (\"{}\", installed is \"{}\"), by make instead of CMake or the other way: build it again ({}).",
            ours.release, module.version, installed.version, how()
        )),
        (Err(sentence), _) | (_, Err(sentence)) => lines.push(format!("{sentence}.")),
        _ => {
            let words = |flags: &str| -> Vec<String> {
                flags.split(',').map(|w| w.trim().to_owned()).collect()
            };
            let (ours, theirs) = (words(&module.flags), words(&installed.flags));
            let only = |here: &[String], there: &[String]| {
                let words: Vec<_> = here.iter().filter(|w| !there.contains(w)).cloned().collect();
                if words.is_empty() { "none".to_owned() } else { words.join(", ") }
            };
            lines.push(format!(
                "It was built for a Kamailio of this release that was compiled with other flags (only the module has: {}; only Kamailio has: {}): build it again ({}).",
                only(&ours, &theirs),
                only(&theirs, &ours),
                how()
            ));
        }
    }
    lines.push(
        "Until then Kamailio does not start with this module: do not restart it, or take loadmodule \"memguard.so\" or the drop-in memguard-observe.conf out first."
            .to_owned(),
    );
    lines
}
