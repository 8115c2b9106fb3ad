//! A release of Kamailio, as its own strings and its packages write it: 6.0.1, 6.2.0-dev1, 6.1.3+bpo13.
//! Forbidden here: knowing where it came from.

use std::fmt;

/// X.Y.Z, and what a developer or a packager added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// X: 6 of 6.0.1.
    pub major: u32,
    /// Y: 0 of 6.0.1.
    pub minor: u32,
    /// Z, the patch level: 1 of 6.0.1.
    pub patch: u32,
    /// EXTRAVERSION with its separator, "-dev1" say; mostly empty.
    pub extra: String,
}

impl Release {
    /// Reads "6.0.1" and whatever follows it: "6.2.0-dev1", "6.1.3+bpo13".
    pub fn parse(text: &str) -> Option<Release> {
        let (major, rest) = number(text)?;
        let (minor, rest) = number(rest.strip_prefix('.')?)?;
        let (patch, rest) = number(rest.strip_prefix('.')?)?;
        // "6.0.1.2" is a number that Kamailio does not have.
        let is_release = !rest.starts_with('.') && !rest.contains(char::is_whitespace);
        is_release.then(|| Release {
            major,
            minor,
            patch,
            extra: rest.to_owned(),
        })
    }

    /// Modules are interchangeable in source within X.Y.
    pub fn same_series(&self, other: &Release) -> bool {
        (self.major, self.minor) == (other.major, other.minor)
    }

    /// The same X.Y.Z, whatever a packager added. What developers add (-dev1, -pre2, -rc0) is another state of the
    /// source, so it must be equal.
    pub fn same_source(&self, other: &Release) -> bool {
        let state = |release: &Release| {
            let word = release.extra.trim_start_matches(['-', '~', '.', '+']);
            let is_state = ["dev", "pre", "rc"].iter().any(|w| word.starts_with(w));
            is_state.then(|| word.to_owned())
        };
        self.same_series(other) && self.patch == other.patch && state(self) == state(other)
    }

    /// VERSIONVAL of Makefile.defs: 6000001 for 6.0.1.
    pub fn value(&self) -> u32 {
        self.major
            .saturating_mul(1_000_000)
            .saturating_add(self.minor.saturating_mul(1000))
            .saturating_add(self.patch)
    }

    /// "6.0".
    pub fn series(&self) -> String {
        format!("{}.{}", self.major, self.minor)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Release {
            major,
            minor,
            patch,
            extra,
        } = self;
        write!(f, "{major}.{minor}.{patch}{extra}")
    }
}

fn number(text: &str) -> Option<(u32, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// What `module_version` says: SER_FULL_VERSION of core/ver_defs.h, `NAME VERSION (ARCH/OS)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// "kamailio", but for who renamed it.
    pub name: String,
    /// The version as it stands there, to the byte.
    pub version: String,
    /// The same, read.
    pub release: Release,
    /// "x86_64".
    pub arch: String,
    /// "linux" of a tree built by make, "Linux" of one built by CMake.
    pub os: String,
}

impl Identity {
    /// `None`: the text is of another form.
    pub fn parse(text: &str) -> Option<Identity> {
        let (front, platform) = text.strip_suffix(')')?.rsplit_once(" (")?;
        let (name, version) = front.split_once(' ')?;
        let (arch, os) = platform.split_once('/')?;
        Some(Identity {
            name: name.to_owned(),
            version: version.to_owned(),
            release: Release::parse(version)?,
            arch: arch.to_owned(),
            os: os.to_owned(),
        })
    }
}
