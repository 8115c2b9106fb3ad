//! Does a module fit a Kamailio, and how is one compiled that does? For build.rs, `memguard-check` and the tools alike.
//! Forbidden here: reading files, unsafe, anything of the other layers (build.rs compiles this folder alone).
//!
//! Kamailio's loader compares two strings of a module with its own, byte for byte, and stops the server on a difference
//! (core/sr_module.c, `ksr_version_control`). The strings of an installed module are the truth; `kamailio -v` shows other
//! flags from 6.1 on.

pub mod advice;
pub mod elf;
pub mod flags;
pub mod release;
pub mod tree;

use crate::fit::release::Identity;

/// The two strings that are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strings {
    /// `module_version`: "kamailio 6.0.1 (x86_64/linux)".
    pub version: String,
    /// `module_flags`: "USE_TCP, USE_TLS, …".
    pub flags: String,
}

impl Strings {
    /// Those of a shared object. The error is the end of a sentence that begins with the file's name.
    pub fn of(object: &[u8]) -> Result<Strings, &'static str> {
        let elf = elf::Elf::new(object).ok_or("is not a 64-bit little-endian shared object")?;
        let version = elf.string_variable("module_version");
        let flags = elf.string_variable("module_flags");
        match (version, flags) {
            (Some(version), Some(flags)) => Ok(Strings { version, flags }),
            (None, _) => Err("has no module_version: it is not a Kamailio module"),
            (_, None) => Err("has no module_flags: it is not a Kamailio module"),
        }
    }

    /// What the version string says; the error is a whole sentence.
    pub fn identity(&self) -> Result<Identity, String> {
        Identity::parse(&self.version).ok_or_else(|| {
            format!(
                "\"{}\" is no version of Kamailio; expected is \"kamailio 6.0.1 (x86_64/linux)\", say",
                self.version
            )
        })
    }
}
