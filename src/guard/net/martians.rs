//! `/proc/net/stat/rt_cache`: packets that came in with a sender's address of this machine. One counter for the whole
//! network namespace: a hint where no ARP frame may be read.
//! Forbidden here: reading files.

/// The counter, summed over the processors; `None` where the text has none.
pub fn martians(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    let names = lines.next()?;
    let at = names
        .split_whitespace()
        .position(|n| n == "in_martian_src")?;
    let number = |line: &str| u64::from_str_radix(line.split_whitespace().nth(at)?, 16).ok();
    Some(lines.filter_map(number).fold(0, u64::wrapping_add))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_by_its_name_and_summed() {
        let text = "entries  in_hit in_martian_src out_hit\n00000001  00000002 0000000a 00000003\n00000001  0 00000010 0\n";
        assert_eq!(martians(text), Some(26));
        assert_eq!(martians("entries in_hit\n1 2\n"), None);
        assert_eq!(martians(""), None);
    }
}
