//! Which other files a kamailio.cfg takes in, by its text.
//! Forbidden here: opening any, and reading the rest of the language.

/// The names after `include_file` and `import_file`, with `#!`, `!!` or nothing before them, as they are written.
pub fn names(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let line = line.trim_start();
        let line = line
            .strip_prefix("#!")
            .or_else(|| line.strip_prefix("!!"))
            .unwrap_or(line);
        let rest = line
            .strip_prefix("include_file")
            .or_else(|| line.strip_prefix("import_file"))?;
        rest.trim_start().strip_prefix('"')?.split('"').next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn included_files_are_named_and_comments_and_other_words_are_not() {
        let text = "#!KAMAILIO\ninclude_file \"a.cfg\"\n  #!import_file \"/etc/b.cfg\" # why\n!!include_file\t\"c d\"\n\
                    # include_file \"e\"\ninclude_files \"f\"\nxlog(\"include_file\")\ninclude_file g\n";
        assert_eq!(
            names(text).collect::<Vec<_>>(),
            ["a.cfg", "/etc/b.cfg", "c d"]
        );
    }
}
