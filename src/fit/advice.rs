//! What to tell who has a module that does not fit: which of the strings differs, in what, and what to do.
//! Forbidden here: commands of one distribution where it is not known which one it is.

use crate::fit::Strings;

/// Sentences, a line each; none: the module fits.
pub fn on(module: &Strings, installed: &Strings) -> Vec<String> {
    let mut lines = Vec::new();
    if module == installed {
        return lines;
    }
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
        "Until then Kamailio does not start with this module: do not restart it, or take loadmodule \"memguard.so\" out first."
            .to_owned(),
    );
    lines
}

fn how() -> &'static str {
    "for a package of Debian or of the Kamailio project: ./dev build; for an own compile or an RPM: ./dev build --source ITS_TREE"
}
