//! Says whether a module fits a Kamailio: the loader compares two strings byte for byte and stops the server on a difference.
//! Forbidden here: loading the files (a module that does not fit cannot be loaded); they are only read.

use std::process::ExitCode;

const USAGE: &str = "usage: memguard-check [MODULE.so [REFERENCE.so] | FOLDER]\n\
    Prints MODULE's version and flags; with REFERENCE (any module of the Kamailio in question, pv.so say)\n\
    exits 0 when both strings are equal, 1 when not. 2: a file cannot be read.\n\
    With FOLDER, or without arguments where Debian puts modules: memguard.so in it against pv.so in it.";

/// Where Debian's package puts modules.
const DEBIAN: &str = "/usr/lib/x86_64-linux-gnu/kamailio/modules";

/// What Kamailio's loader compares (core/sr_module.c, version control).
const SYMBOLS: [&str; 2] = ["module_version", "module_flags"];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let in_folder = |folder: &str| {
        let of = |name| format!("{folder}/{name}");
        (of("memguard.so"), Some(of("pv.so")))
    };
    let (module, reference) = match args.as_slice() {
        [] => in_folder(DEBIAN),
        [word] if ["-h", "--help"].contains(&word.as_str()) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [folder] if std::path::Path::new(folder).is_dir() => in_folder(folder),
        [module] if !module.starts_with('-') => (module.clone(), None),
        [module, reference] => (module.clone(), Some(reference.clone())),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match check(&module, reference.as_deref()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(sentence) => {
            eprintln!("memguard-check: {sentence}");
            ExitCode::from(2)
        }
    }
}

fn check(module: &str, reference: Option<&str>) -> Result<bool, String> {
    let ours = strings_of(module)?;
    let Some(reference) = reference else {
        ours.iter().for_each(|line| println!("{line}"));
        return Ok(true);
    };
    let theirs = strings_of(reference)?;
    let mut fits = true;
    for ((name, ours), theirs) in SYMBOLS.iter().zip(&ours).zip(&theirs) {
        if ours != theirs {
            fits = false;
            println!(
                "{name} differs, so Kamailio would not start:\n  {ours}  <- {module}\n  {theirs}  <- {reference}"
            );
        }
    }
    if fits {
        println!("{module} fits {} ({reference})", theirs[0]);
    }
    Ok(fits)
}

/// The two strings of a shared object.
fn strings_of(path: &str) -> Result<[String; 2], String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{path}: {e}"))?;
    let elf = Elf::new(&bytes)
        .ok_or_else(|| format!("{path} is not a 64-bit little-endian shared object"))?;
    let read = |name| {
        elf.string_variable(name)
            .ok_or_else(|| format!("{path} has no {name}: it is not a Kamailio module"))
    };
    Ok([read(SYMBOLS[0])?, read(SYMBOLS[1])?])
}

// Numbers of the ELF format (System V ABI, "Object Files"; x86-64 and aarch64 psABI for the relocations).
const SHT_RELA: u32 = 4;
const SHT_NOBITS: u32 = 8;
const SHT_DYNSYM: u32 = 11;
const RELATIVE: [u32; 2] = [8, 1027];
const ABSOLUTE: [u32; 2] = [1, 257];

struct Section {
    kind: u32,
    address: u64,
    offset: usize,
    size: usize,
    link: usize,
}

struct Elf<'a> {
    bytes: &'a [u8],
    sections: Vec<Section>,
}

impl<'a> Elf<'a> {
    fn new(bytes: &'a [u8]) -> Option<Elf<'a>> {
        if bytes.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let start = usize::try_from(word64(bytes, 40)?).ok()?;
        let (size, count) = (
            usize::from(word16(bytes, 58)?),
            usize::from(word16(bytes, 60)?),
        );
        let sections = (0..count)
            .map(|i| {
                let header = bytes.get(start.checked_add(i * size)?..)?;
                Some(Section {
                    kind: word32(header, 4)?,
                    address: word64(header, 16)?,
                    offset: usize::try_from(word64(header, 24)?).ok()?,
                    size: usize::try_from(word64(header, 32)?).ok()?,
                    link: usize::try_from(word32(header, 40)?).ok()?,
                })
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Elf { bytes, sections })
    }

    /// The text that a `char *` variable of this name points at.
    fn string_variable(&self, name: &str) -> Option<String> {
        let variable =
            self.symbol(|symbol, table| self.name_of(symbol, table) == Some(name.as_bytes()))?;
        let text = self.pointer_at(variable).filter(|&address| address != 0)?;
        let bytes = self.at(text)?;
        let end = bytes.iter().position(|&b| b == 0)?;
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    fn content(&self, section: &Section) -> &'a [u8] {
        let end = section.offset.saturating_add(section.size);
        self.bytes.get(section.offset..end).unwrap_or_default()
    }

    /// The address of the first dynamic symbol that is defined here and wanted.
    fn symbol(&self, wanted: impl Fn(&[u8], &Section) -> bool) -> Option<u64> {
        self.sections
            .iter()
            .filter(|s| s.kind == SHT_DYNSYM)
            .find_map(|table| {
                let symbol = self
                    .content(table)
                    .chunks_exact(24)
                    .find(|s| word16(s, 6) != Some(0) && wanted(s, table))?;
                word64(symbol, 8)
            })
    }

    fn name_of(&self, symbol: &[u8], table: &Section) -> Option<&'a [u8]> {
        let names = self.content(self.sections.get(table.link)?);
        let name = names.get(usize::try_from(word32(symbol, 0)?).ok()?..)?;
        name.split(|&b| b == 0).next()
    }

    /// The pointer that the dynamic loader would leave at this address, relative to the object's base.
    fn pointer_at(&self, address: u64) -> Option<u64> {
        for table in self.sections.iter().filter(|s| s.kind == SHT_RELA) {
            let rela = self
                .content(table)
                .chunks_exact(24)
                .find(|r| word64(r, 0) == Some(address));
            let Some(rela) = rela else { continue };
            let (kind, symbol, addend) = (word32(rela, 8)?, word32(rela, 12)?, word64(rela, 16)?);
            if RELATIVE.contains(&kind) {
                return Some(addend);
            }
            if ABSOLUTE.contains(&kind) {
                let symbols = self.content(self.sections.get(table.link)?);
                let start = usize::try_from(symbol).ok()?.checked_mul(24)?;
                return Some(word64(symbols.get(start..)?, 8)?.wrapping_add(addend));
            }
        }
        word64(self.at(address)?, 0) // packed relocations leave the addend in place
    }

    fn at(&self, address: u64) -> Option<&'a [u8]> {
        let section = self.sections.iter().find(|s| {
            s.address != 0
                && s.kind != SHT_NOBITS
                && s.address <= address
                && address - s.address < s.size as u64
        })?;
        self.content(section)
            .get(usize::try_from(address - section.address).ok()?..)
    }
}

fn word16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(at..at.checked_add(2)?)?.try_into().ok()?,
    ))
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(
        bytes.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

fn word64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(at..at.checked_add(8)?)?.try_into().ok()?,
    ))
}
