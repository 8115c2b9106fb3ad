//! JUnit XML: one test case per question that was asked, a failure for each that was answered badly.
//! Forbidden here: escaping by hand.

use quick_xml::Writer;
use quick_xml::events::{BytesText, Event};

use crate::report::Report;

/// The document.
///
/// # Errors
/// XML that cannot be written: a sentence.
pub fn document(report: &Report) -> Result<String, String> {
    let leaks: Vec<String> = report.leaks.iter().map(|row| row.sentence()).collect();
    let mut cases = vec![("memory is given back", leaks)];
    if report.failed_allocations.is_some() {
        cases.push((
            "failed allocations are survived",
            report.faults.iter().map(|f| f.sentence()).collect(),
        ));
    }
    if !report.stress.is_empty() {
        let grows = report.stress.iter().filter(|step| step.kept_growing);
        cases.push((
            "memory stands still under stress",
            grows.map(|step| step.sentence()).collect(),
        ));
    }
    let failures = cases
        .iter()
        .filter(|(_, found)| !found.is_empty())
        .count()
        .to_string();
    let (count, seconds) = (cases.len().to_string(), format!("{:.3}", report.seconds));
    let totals = [
        ("tests", count.as_str()),
        ("failures", &failures),
        ("errors", "0"),
        ("time", &seconds),
    ];
    let each = format!("{:.3}", report.seconds / cases.len() as f64);
    let began = moment(report.began_ms);
    let about = [
        ("configuration", report.cfg.clone()),
        ("kamailio", report.version.clone()),
        ("rounds", report.rounds.to_string()),
        ("requests", report.requests.to_string()),
    ];
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    let write = |writer: &mut Writer<Vec<u8>>| -> std::io::Result<()> {
        writer.write_event(Event::Decl(quick_xml::events::BytesDecl::new(
            "1.0",
            Some("UTF-8"),
            None,
        )))?;
        // What Ant's schema demands, and no more than Jenkins's permits: every reader takes it.
        writer
            .create_element("testsuites")
            .write_inner_content(|writer| {
                writer
                    .create_element("testsuite")
                    .with_attribute(("name", report.cfg.as_str()))
                    .with_attribute(("package", "memguard-gate"))
                    .with_attribute(("id", "0"))
                    .with_attribute(("hostname", "localhost"))
                    .with_attribute(("timestamp", began.as_str()))
                    .with_attributes(totals)
                    .write_inner_content(|writer| {
                        writer
                            .create_element("properties")
                            .write_inner_content(|writer| {
                                for (name, value) in &about {
                                    writer
                                        .create_element("property")
                                        .with_attribute(("name", *name))
                                        .with_attribute(("value", value.as_str()))
                                        .write_empty()?;
                                }
                                Ok(())
                            })?;
                        for (name, found) in &cases {
                            let case = writer
                                .create_element("testcase")
                                .with_attribute(("name", *name))
                                .with_attribute(("classname", report.cfg.as_str()))
                                .with_attribute(("time", each.as_str()));
                            let Some(first) = found.first() else {
                                case.write_empty()?;
                                continue;
                            };
                            case.write_inner_content(|writer| {
                                writer
                                    .create_element("failure")
                                    .with_attribute(("type", "memory"))
                                    .with_attribute(("message", first.as_str()))
                                    .write_text_content(BytesText::new(&found.join("\n")))?;
                                Ok(())
                            })?;
                        }
                        writer
                            .create_element("system-out")
                            .write_text_content(BytesText::new(&report.text()))?;
                        writer.create_element("system-err").write_empty()?;
                        Ok(())
                    })?;
                Ok(())
            })?;
        Ok(())
    };
    write(&mut writer).map_err(|e| e.to_string())?;
    let text = String::from_utf8(writer.into_inner()).map_err(|e| e.to_string())?;
    // XML 1.0 has no control characters, escaped or not; a log line may hold some.
    let is_fit = |c: &char| !c.is_control() || ['\n', '\t'].contains(c);
    Ok(text.chars().filter(is_fit).collect::<String>() + "\n")
}

/// Unix milliseconds as the schemas have it, "2026-11-21T07:38:00", in UTC.
fn moment(ms: u64) -> String {
    let text = memguard::guard::formats::profile::stamp(ms);
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{}T{}:{}:{}",
        part(0, 4),
        part(4, 6),
        part(6, 8),
        part(9, 11),
        part(11, 13),
        part(13, 15)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Row;

    #[test]
    fn the_time_is_the_schemas() {
        assert_eq!(moment(1_795_246_680_123), "2026-11-21T07:38:00");
    }

    #[test]
    fn a_leak_is_a_failed_case_and_what_is_special_in_xml_is_escaped() {
        let mut report = Report {
            cfg: "a&b.cfg".into(),
            ..Report::default()
        };
        let held = document(&report).expect("it is written");
        assert!(
            held.contains("failures=\"0\"") && !held.contains("<failure"),
            "{held}"
        );
        report.leaks.push(Row {
            pool: "shm".into(),
            function: "<f\u{1}>".into(),
            ..Row::default()
        });
        let found = document(&report).expect("it is written");
        assert!(
            found.contains("failures=\"1\"") && found.contains("&lt;f&gt;"),
            "{found}"
        );
        assert!(
            found.contains("a&amp;b.cfg") && !found.contains('\u{1}'),
            "{found}"
        );
    }
}
