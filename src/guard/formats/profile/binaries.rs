//! The binaries that a process has loaded: /proc/self/maps, and the build id that names each build of a file.
//! Forbidden here: opening files.

/// An executable part of a file that is mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub limit: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// The file.
    pub file: String,
    /// Its build id in hexadecimal; empty: unknown.
    pub build_id: String,
}

impl Mapping {
    /// Whether an address lies in it.
    pub fn holds(&self, address: u64) -> bool {
        (self.start..self.limit).contains(&address)
    }

    /// Whether the file is this module's (`htable` is in `…/htable.so`).
    pub fn is_of_module(&self, module: &str) -> bool {
        let name = self.file.rsplit('/').next().unwrap_or_default();
        name.strip_suffix(".so") == Some(module)
    }
}

/// The executable mappings of files in the text of /proc/PID/maps (proc(5)), the main binary's first: it is the one
/// at the lowest address that is no library. Build ids are left empty.
pub fn mappings(maps: &str) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = maps.lines().filter_map(mapping).collect();
    if let Some(main) = found.iter().position(|m| !is_library(&m.file)) {
        found[..=main].rotate_right(1);
    }
    found
}

fn is_library(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or_default();
    name.ends_with(".so") || name.contains(".so.") || name.starts_with("ld-linux")
}

fn mapping(line: &str) -> Option<Mapping> {
    let mut words = line.splitn(6, ' ');
    let (start, limit) = words.next()?.split_once('-')?;
    let rights = words.next()?;
    let offset = words.next()?;
    let file = words.nth(2)?.trim_start();
    let hex = |text| u64::from_str_radix(text, 16).ok();
    (rights.contains('x') && file.starts_with('/')).then_some(Mapping {
        start: hex(start)?,
        limit: hex(limit)?,
        offset: hex(offset)?,
        file: file.to_owned(),
        build_id: String::new(),
    })
}

/// The build id of an ELF file (64 bits, little-endian), read by pieces: `read` gives so many bytes from an offset on.
pub fn build_id(mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<String> {
    let header = read(0, 64)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let entry_size = usize::from(u16_at(&header, 54)?);
    let table = read(
        u64_at(&header, 32)?,
        entry_size.checked_mul(usize::from(u16_at(&header, 56)?))?,
    )?;
    // A segment of type PT_NOTE holds notes.
    let is_note = |entry: &&[u8]| u32_at(entry, 0) == Some(4);
    table
        .chunks_exact(entry_size.max(1))
        .filter(is_note)
        .find_map(|entry| {
            let size = usize::try_from(u64_at(entry, 32)?).ok()?;
            id_in(&read(u64_at(entry, 8)?, size.min(MAX_NOTES))?)
        })
}

/// More than the notes of any binary seen.
const MAX_NOTES: usize = 4096;

/// Walks notes (length of the name, length of the text, type; both padded to 4 bytes) to the one of GNU, type 3.
fn id_in(mut notes: &[u8]) -> Option<String> {
    loop {
        let name_length = u32_at(notes, 0)? as usize;
        let text_length = u32_at(notes, 4)? as usize;
        let kind = u32_at(notes, 8)?;
        let text_from = 12 + name_length.checked_next_multiple_of(4)?;
        let name = notes.get(12..)?.get(..name_length)?;
        let text = notes.get(text_from..)?.get(..text_length)?;
        if name == b"GNU\0" && kind == 3 {
            return Some(text.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        notes = notes.get(text_from.checked_add(text_length.checked_next_multiple_of(4)?)?..)?;
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.get(..N)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    part(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    part(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    part(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
7f00-7f10 r-xp 00002000 08:01 11                         /usr/lib/kamailio/modules/htable.so
5500-5520 r--p 00000000 08:01 10                         /usr/sbin/kamailio
5520-5590 r-xp 00020000 08:01 10                         /usr/sbin/kamailio
7f10-7f20 rw-p 00000000 00:00 0 \n7f20-7f30 r-xp 00000000 00:00 0                          [vdso]
7f30-7f40 r-xp 00000000 08:01 12                         /opt/a folder/libc.so.6
not a line
";

    #[test]
    fn executable_mappings_of_files_are_found_the_main_binary_first() {
        let found = mappings(MAPS);
        let files: Vec<_> = found.iter().map(|m| m.file.as_str()).collect();
        assert_eq!(
            files,
            [
                "/usr/sbin/kamailio",
                "/usr/lib/kamailio/modules/htable.so",
                "/opt/a folder/libc.so.6"
            ]
        );
        assert_eq!(
            (found[0].start, found[0].limit, found[0].offset),
            (0x5520, 0x5590, 0x20000)
        );
        assert!(found[1].is_of_module("htable") && !found[1].is_of_module("table"));
    }

    #[cfg(not(miri))]
    #[test]
    fn this_programs_build_id_is_the_one_that_its_file_says() {
        let bytes = std::fs::read("/proc/self/exe").unwrap();
        let read =
            |at: u64, count: usize| bytes.get(at as usize..)?.get(..count).map(<[u8]>::to_vec);
        let marker = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0"; // a note of 20 bytes, as linkers write it
        let at = bytes.windows(16).position(|w| w == marker);
        let Some(at) = at else { return }; // linked without one
        let expected: String = bytes[at + 16..at + 36]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(build_id(read), Some(expected));
    }

    #[test]
    fn what_is_no_elf_file_or_ends_early_has_no_build_id() {
        let whole = std::fs::read("/proc/self/exe").unwrap_or_default();
        for length in [0, 4, 63, 64, 100] {
            let bytes = whole.get(..length).unwrap_or_default();
            let read =
                |at: u64, count: usize| bytes.get(at as usize..)?.get(..count).map(<[u8]>::to_vec);
            assert_eq!(build_id(read), None);
        }
        assert_eq!(id_in(&[0xff; 64]), None);
        assert_eq!(id_in(&[0; 12]), None);
    }

    #[test]
    fn a_mapping_holds_its_first_address_and_not_the_one_behind_it() {
        let found = mappings(MAPS);
        let held = [0x551f, 0x5520, 0x558f, 0x5590].map(|address| found[0].holds(address));
        assert_eq!(held, [false, true, true, false]);
    }

    #[test]
    fn libraries_are_told_by_their_names() {
        for file in [
            "/lib/libc.so.6",
            "/modules/htable.so",
            "/lib/ld-linux-x86-64.so",
        ] {
            assert!(is_library(file), "{file}");
        }
        assert!(!is_library("/usr/sbin/kamailio"));
    }
}
