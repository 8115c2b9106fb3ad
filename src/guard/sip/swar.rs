//! Searches in short texts, eight bytes a step: header lines and URIs are too short for a vector search to pay its call.
//! Forbidden here: allocation, panics, anything that is not linear in the text's length.

/// A one in every byte.
const ONES: u64 = u64::from_le_bytes([1; 8]);
/// The highest bit of every byte.
const HIGHS: u64 = ONES << 7;

/// The first eight bytes as a number, lowest first; 0 when there are fewer.
#[inline(always)]
fn word(text: &[u8]) -> u64 {
    text.first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The bytes that are left after all whole words, lowest first, zeros above them.
#[inline(always)]
pub fn last_word(text: &[u8]) -> u64 {
    let rest = text.len() % 8;
    match text.last_chunk() {
        // What is loaded begins among bytes that are not wanted: they are shifted out.
        Some(bytes) => u64::from_le_bytes(*bytes)
            .checked_shr(64 - 8 * rest as u32)
            .unwrap_or(0),
        None => text
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

/// Calls `each` with every whole word of the text.
#[inline(always)]
pub fn each_word(text: &[u8], each: impl FnMut(u64)) {
    text.chunks_exact(8).map(word).for_each(each);
}

/// The word with its ASCII letters in lower case.
#[inline(always)]
pub fn lower_case(word: u64) -> u64 {
    let low = word & !HIGHS;
    let from_a = low + ONES * (0x80 - b'A' as u64);
    let above_z = low + ONES * (0x7f - b'Z' as u64);
    word | ((from_a ^ above_z) & !word & HIGHS) >> 2
}

/// Whether the text is this word (given in lower case) in any case.
#[inline(always)]
pub fn is_word(text: &[u8], word: &[u8]) -> bool {
    let mut words = text.chunks_exact(8).zip(word.chunks_exact(8));
    text.len() == word.len()
        && words.all(|(text, word)| lower_case(self::word(text)) == self::word(word))
        && lower_case(last_word(text)) == last_word(word)
}

/// The text before the first `mark` within its first eight bytes, as a number in lower case, and its length.
#[inline(always)]
pub fn short_word(text: &[u8], mark: u8) -> Option<(u64, usize)> {
    let word = word(text);
    let found = marks(word, mark);
    let len = found.trailing_zeros() / 8;
    let before = word & !u64::MAX.checked_shl(8 * len).unwrap_or(0);
    (found != 0).then_some((lower_case(before), len as usize))
}

/// A word as [`short_word`] gives it.
pub const fn short(word: &[u8]) -> u64 {
    let (mut number, mut at) = (0, word.len());
    while at > 0 {
        at -= 1;
        number = number << 8 | word[at] as u64;
    }
    number
}

/// The highest bit of each byte that equals `byte`. The lowest mark is exact; a borrow can only mark bytes above it.
#[inline(always)]
fn marks(word: u64, byte: u8) -> u64 {
    let zero_where_equal = word ^ (ONES * u64::from(byte));
    zero_where_equal.wrapping_sub(ONES) & !zero_where_equal & HIGHS
}

/// Where the first of some bytes (none of them 0) is.
#[inline(always)]
pub fn find<const N: usize>(text: &[u8], bytes: [u8; N]) -> Option<usize> {
    let marked = |word: u64| {
        bytes
            .iter()
            .fold(0, |found, byte| found | marks(word, *byte))
    };
    let place = |marks: u64| marks.trailing_zeros() as usize / 8;
    let mut rest = text;
    let mut at = 0;
    while let Some((chunk, after)) = rest.split_first_chunk() {
        let found = marked(u64::from_le_bytes(*chunk));
        if found != 0 {
            return Some(at + place(found));
        }
        at += 8;
        rest = after;
    }
    let found = marked(last_word(text));
    (found != 0).then(|| at + place(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_bytes_is_found_at_every_place_of_every_length() {
        for length in 0..40 {
            for place in 0..length {
                for value in [b':', b';'] {
                    let mut text = vec![0xbau8; length]; // ':' with the highest bit
                    text[place] = value;
                    text.push(b':');
                    assert_eq!(find(&text, [b':', b';']), Some(place), "{length}");
                }
            }
            assert_eq!(find(&vec![b'9'; length], [b':', b';']), None);
        }
    }

    #[test]
    fn a_borrow_never_hides_or_invents_a_first_byte() {
        for byte in 1..=255u8 {
            for before in 0..=255u8 {
                let text = [before, byte, byte ^ 1, byte, before];
                assert_eq!(find(&text, [byte]), text.iter().position(|b| *b == byte));
            }
        }
    }

    #[test]
    fn lower_case_changes_ascii_letters_only() {
        for byte in 0..=255u8 {
            let word = u64::from_le_bytes([byte, b'Z', byte, b'@', byte, b'[', b'a', byte]);
            let wanted = word.to_le_bytes().map(|b| b.to_ascii_lowercase());
            assert_eq!(lower_case(word).to_le_bytes(), wanted);
        }
    }

    #[test]
    fn a_word_is_itself_in_any_case_and_nothing_else() {
        let word = b"proxy-authorization";
        for length in 0..word.len() {
            let word = &word[..length];
            assert!(is_word(word, word) && is_word(&word.to_ascii_uppercase(), word));
            assert!(!is_word(&[word, b"x"].concat(), word));
            for place in 0..length {
                for bit in [0, 1, 3, 4, 6, 7] {
                    let mut other = word.to_vec();
                    other[place] ^= 1 << bit;
                    assert!(!is_word(&other, word), "{other:?}");
                }
            }
        }
        assert!(!is_word(b"\rall", b"-all"), "no letter, no case");
    }

    #[test]
    fn a_short_word_ends_at_its_mark() {
        assert_eq!(short_word(b"Via: SIP/2.0", b':'), Some((short(b"via"), 3)));
        assert_eq!(short_word(b"CONTACT:", b':'), Some((short(b"contact"), 7)));
        assert_eq!(short_word(b":1234567", b':'), Some((0, 0)));
        assert_eq!(short_word(b"Call-Info: ", b':'), None);
        assert_eq!(short_word(b"To: a", b':'), None, "fewer than eight bytes");
    }

    #[test]
    fn words_and_the_last_word_are_the_text() {
        for length in 0..30u8 {
            let text: Vec<u8> = (1..=length).collect();
            let mut back = Vec::new();
            each_word(&text, |word| back.extend(word.to_le_bytes()));
            back.extend(last_word(&text).to_le_bytes());
            let (same, zeros) = back.split_at(text.len());
            assert_eq!(same, text);
            assert!(zeros.iter().all(|byte| *byte == 0) && zeros.len() <= 8);
        }
    }
}
