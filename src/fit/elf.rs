//! Reads two strings out of a shared object: its symbols, and the pointers that the dynamic loader would leave.
//! Forbidden here: loading the object (one that does not fit cannot be loaded).

use object::read::elf::ElfFile64;
use object::{
    LittleEndian, Object, ObjectSegment, ObjectSymbol, ObjectSymbolTable, RelocationTarget,
};

/// A 64-bit little-endian shared object.
pub struct Elf<'a>(ElfFile64<'a, LittleEndian>);

impl<'a> Elf<'a> {
    /// `None`: the bytes are no such object.
    pub fn new(bytes: &'a [u8]) -> Option<Elf<'a>> {
        ElfFile64::parse(bytes).ok().map(Elf)
    }

    /// The text that a `char *` variable of this name points at.
    pub fn string_variable(&self, name: &str) -> Option<String> {
        let is_it = |name_of: &[u8]| name_of == name.as_bytes();
        let mut symbols = self.0.dynamic_symbols();
        let variable = symbols.find(|s| s.is_definition() && s.name_bytes().is_ok_and(is_it))?;
        let text = self.pointer_at(variable.address())?;
        let bytes = self.at(text).filter(|_| text != 0)?;
        let end = bytes.iter().position(|&b| b == 0)?;
        Some(String::from_utf8_lossy(bytes.get(..end)?).into_owned())
    }

    /// The pointer that the dynamic loader would leave at this address, relative to the object's base.
    fn pointer_at(&self, address: u64) -> Option<u64> {
        let mut all = self.0.dynamic_relocations().into_iter().flatten();
        let Some((_, relocation)) = all.find(|(at, _)| *at == address) else {
            let bytes = self.at(address)?.get(..8)?; // packed relocations leave the addend in place
            return Some(u64::from_le_bytes(bytes.try_into().ok()?));
        };
        let base = match relocation.target() {
            RelocationTarget::Symbol(index) => {
                let symbols = self.0.dynamic_symbol_table()?;
                symbols.symbol_by_index(index).ok()?.address()
            }
            _ => 0,
        };
        Some(base.wrapping_add_signed(relocation.addend()))
    }

    /// What is loaded from this address on.
    fn at(&self, address: u64) -> Option<&'a [u8]> {
        self.0.segments().find_map(|segment| {
            let start = usize::try_from(address.checked_sub(segment.address())?).ok()?;
            segment
                .data()
                .ok()?
                .get(start..)
                .filter(|bytes| !bytes.is_empty())
        })
    }
}
