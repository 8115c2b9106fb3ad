//! Which release a source tree is, and whether a module can be built from it for an installed Kamailio.
//! A tree says its release twice, for make and for CMake, and not always the same: 6.0.1's says 6.0.0-rc0 to CMake.
//! Forbidden here: guessing: a tree that does not say its release is refused.

use crate::fit::release::{Identity, Release};

/// The release that `src/Makefile.defs` declares (VERSION, PATCHLEVEL, SUBLEVEL, EXTRAVERSION).
pub fn of_makefile(text: &str) -> Option<Release> {
    let value = |name: &str| {
        text.lines().find_map(|line| {
            let (left, right) = line.split_once('=')?;
            let left = left.trim_end_matches([':', '?']).trim();
            let right = right.split('#').next().unwrap_or_default();
            (left == name).then(|| right.trim().to_owned())
        })
    };
    let number = |name: &str| value(name)?.parse().ok();
    Some(Release {
        major: number("VERSION")?,
        minor: number("PATCHLEVEL")?,
        patch: number("SUBLEVEL")?,
        extra: value("EXTRAVERSION").unwrap_or_default(),
    })
}

/// The release that `CMakeLists.txt` declares (project(kamailio VERSION …), set(EXTRAVERSION "…")).
pub fn of_cmake(text: &str) -> Option<Release> {
    let text: String = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let project = &text[text.find("project(")?..];
    let mut words = project[..project.find(')')?].split_whitespace();
    words.by_ref().find(|word| *word == "VERSION")?;
    let mut release = Release::parse(words.next()?)?;
    if let Some((_, rest)) = text.split_once("set(EXTRAVERSION") {
        let extra = rest.split(')').next().unwrap_or_default();
        release.extra = extra.trim().trim_matches('"').to_owned();
    }
    Some(release)
}

/// Whether a module can be built with the headers of a tree that says it is `said` (not empty; make's first) for the
/// Kamailio `installed`: perhaps with a warning. `nearest`: another patch level is accepted. The error is one sentence
/// that says what to do.
pub fn judge(
    said: &[Release],
    installed: &Identity,
    nearest: bool,
) -> Result<Option<String>, String> {
    let wanted = &installed.release;
    if said.iter().any(|tree| tree.same_source(wanted)) {
        return Ok(None);
    }
    let in_series = said.iter().find(|tree| tree.same_series(wanted));
    let Some(tree) = in_series.or(said.first()) else {
        return Err("this tree says no version of Kamailio".to_owned());
    };
    let whence = format!(
        "the source package of what is installed, or kamailio-{wanted}_src.tar.gz of kamailio.org"
    );
    if !tree.same_series(wanted) {
        return Err(format!(
            "this tree is Kamailio {tree}, but installed is {wanted}: a module needs headers of {}; take {whence}",
            wanted.series()
        ));
    }
    if !nearest {
        return Err(format!(
            "this tree is Kamailio {tree}, but installed is {wanted}: take {whence}, or add --nearest to build with what {tree} says"
        ));
    }
    Ok(Some(format!(
        "built with headers of Kamailio {tree} for {wanted}: what changed between them is not checked until memguard's trial at the start; try it in mode observe first"
    )))
}
