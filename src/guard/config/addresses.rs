//! The values of `address_expect` and `address_floating`: one address each.
//! Forbidden here: looking whether it is there.

use std::net::IpAddr;

/// Reads one address, IPv6 with or without brackets.
///
/// # Errors
/// A whole sentence for the operator.
pub fn parse_address(parameter: &str, value: &str) -> Result<IpAddr, String> {
    let bare = value.trim();
    let inner = bare
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = inner.unwrap_or(bare).parse::<IpAddr>().ok();
    address
        .filter(|address| !address.is_unspecified() && !address.is_multicast())
        .ok_or_else(|| {
            format!("parameter {parameter} is \"{value}\", but accepts one IPv4 or IPv6 address of a machine")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_accepted_and_nothing_else() {
        let read = |value| parse_address("address_expect", value);
        assert_eq!(read(" 192.0.2.7 "), Ok(IpAddr::from([192, 0, 2, 7])));
        assert_eq!(read("[2001:db8::1]"), read("2001:db8::1"));
        for bad in [
            "",
            "eth0",
            "192.0.2.7/24",
            "192.0.2.7:5060",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
        ] {
            let sentence = read(bad).expect_err(bad);
            assert!(
                sentence.contains("accepts one IPv4 or IPv6 address"),
                "{sentence}"
            );
        }
    }
}
