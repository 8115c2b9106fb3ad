//! Annotations for GitHub's runner: a line on the output that it shows at the line of the file.
//! Forbidden here: anything when another machine runs it.

use std::path::Path;

use crate::report::Report;
use crate::sarif::file_of;

/// Whether GitHub's runner runs this.
pub fn is_here() -> bool {
    std::env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true")
}

/// The lines (workflow commands; docs.github.com "Workflow commands for GitHub Actions").
pub fn annotations(report: &Report, cfg: &Path) -> Vec<String> {
    let leaks = report
        .leaks
        .iter()
        .map(|row| (row.cfg.as_str(), row.sentence()));
    let faults = report
        .faults
        .iter()
        .map(|fault| (fault.cfg.as_str(), fault.sentence()));
    leaks
        .chain(faults)
        .map(|(place, sentence)| {
            let (file, line) = match crate::culprit::line_of(place) {
                Some((name, line)) => (file_of(cfg, name), line),
                None => (cfg.to_owned(), 1),
            };
            let file = property(&file.to_string_lossy());
            format!(
                "::error file={file},line={line},title=memguard-gate::{}",
                data(&sentence)
            )
        })
        .collect()
}

fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Row;

    #[test]
    fn a_leak_is_an_annotation_at_its_line() {
        let report = Report {
            leaks: vec![Row {
                cfg: "k.cfg:12 route[A]".into(),
                function: "100%\nf".into(),
                ..Row::default()
            }],
            ..Report::default()
        };
        let lines = annotations(&report, Path::new("a,b/k.cfg"));
        assert!(
            lines[0].starts_with("::error file=a%2Cb/k.cfg,line=12,title=memguard-gate::"),
            "{lines:?}"
        );
        assert!(
            lines[0].contains("100%25%0Af") && !lines[0].contains('\n'),
            "{lines:?}"
        );
    }
}
