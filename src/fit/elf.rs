//! Reads two strings out of a shared object: its symbols, and the pointers that the dynamic loader would leave.
//! Forbidden here: loading the object (one that does not fit cannot be loaded); reading beyond its bytes.

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

/// A 64-bit little-endian shared object.
pub struct Elf<'a> {
    bytes: &'a [u8],
    sections: Vec<Section>,
}

impl<'a> Elf<'a> {
    /// `None`: the bytes are no such object.
    pub fn new(bytes: &'a [u8]) -> Option<Elf<'a>> {
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
    pub fn string_variable(&self, name: &str) -> Option<String> {
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
