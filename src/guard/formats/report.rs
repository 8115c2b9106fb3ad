//! The shape of every answer: named fields in order, and how they become JSON. One tree serves RPC and JSON alike.
//! Forbidden here: knowing what is reported, and Kamailio's RPC interface.

use serde_json::{Map, Value};

/// One value of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A word or sentence.
    Text(String),
    /// A small whole number (32 bits).
    Int(i32),
    /// Bytes, counters, times.
    Count(u64),
    /// What may be negative: growth in bytes, drift.
    Signed(i64),
    /// A rate or a share.
    Real(f64),
    /// Rows.
    List(Vec<Fields>),
    /// Sentences.
    Texts(Vec<String>),
    /// Bytes or counters in a row.
    Counts(Vec<u64>),
    /// Rates in a row.
    Reals(Vec<f64>),
}

/// Named values in the order in which they are shown.
pub type Fields = Vec<(&'static str, Node)>;

/// An answer of a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// One set of fields.
    One(Fields),
    /// Rows; may be empty.
    Many(Vec<Fields>),
    /// One text.
    Text(String),
}

/// A refused command: code of the fault and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// 400 bad arguments, 404 unknown, 500 cannot.
    pub code: i32,
    /// What is accepted, or what to do.
    pub sentence: String,
}

impl Fault {
    /// Arguments that are not accepted.
    pub fn bad(sentence: impl Into<String>) -> Fault {
        Fault {
            code: 400,
            sentence: sentence.into(),
        }
    }

    /// Something that does not exist.
    pub fn unknown(sentence: impl Into<String>) -> Fault {
        Fault {
            code: 404,
            sentence: sentence.into(),
        }
    }

    /// Something that cannot be done now.
    pub fn cannot(sentence: impl Into<String>) -> Fault {
        Fault {
            code: 500,
            sentence: sentence.into(),
        }
    }
}

/// A word.
pub fn word(text: impl std::fmt::Display) -> Node {
    Node::Text(text.to_string())
}

/// A small number; clamped.
pub fn int(number: u64) -> Node {
    Node::Int(i32::try_from(number).unwrap_or(i32::MAX))
}

/// A rate or share, never NaN or infinite.
pub fn real(number: f64) -> Node {
    Node::Real(crate::guard::terms::text::finite(number))
}

impl Node {
    /// The value as JSON.
    pub fn to_json(&self) -> Value {
        match self {
            Node::Text(text) => Value::from(text.as_str()),
            Node::Int(number) => Value::from(*number),
            Node::Count(number) => Value::from(*number),
            Node::Signed(number) => Value::from(*number),
            Node::Real(number) => Value::from(*number),
            Node::List(rows) => rows.iter().map(fields_to_json).collect(),
            Node::Texts(texts) => texts.iter().map(|t| Value::from(t.as_str())).collect(),
            Node::Counts(numbers) => numbers.iter().copied().collect(),
            Node::Reals(numbers) => numbers.iter().copied().collect(),
        }
    }

    /// About how many bytes the value takes on the wire.
    fn weight(&self) -> usize {
        match self {
            Node::Text(text) => text.len() + 4,
            Node::Int(_) => 6,
            Node::Count(_) | Node::Signed(_) | Node::Real(_) => 14,
            Node::List(rows) => rows.iter().map(weight).sum::<usize>() + 8,
            Node::Texts(texts) => texts.iter().map(|t| t.len() + 4).sum::<usize>() + 8,
            Node::Counts(numbers) => 14 * numbers.len() + 8,
            Node::Reals(numbers) => 14 * numbers.len() + 8,
        }
    }
}

/// Fields as a JSON object.
pub fn fields_to_json(fields: &Fields) -> Value {
    Value::Object(
        fields
            .iter()
            .map(|(name, node)| ((*name).to_owned(), node.to_json()))
            .collect::<Map<_, _>>(),
    )
}

/// An answer as JSON.
pub fn to_json(answer: &Answer) -> Value {
    match answer {
        Answer::One(fields) => fields_to_json(fields),
        Answer::Many(rows) => rows.iter().map(fields_to_json).collect(),
        Answer::Text(text) => Value::from(text.as_str()),
    }
}

/// About how many bytes a row takes on the wire.
pub fn weight(fields: &Fields) -> usize {
    fields
        .iter()
        .map(|(name, node)| name.len() + 6 + node.weight())
        .sum::<usize>()
        + 8
}

/// Longest answer: ctl's reply holds 32 KB (modules/ctl/binrpc_run.c).
pub const MAX_ANSWER: usize = 24 * 1024;

/// Cuts rows that would not fit; the last row then says how many are missing.
pub fn cut(rows: Vec<Fields>) -> Vec<Fields> {
    let count = rows.len();
    let mut room = MAX_ANSWER;
    let mut kept: Vec<Fields> = rows
        .into_iter()
        .take_while(|row| {
            let fits = weight(row) <= room;
            room = room.saturating_sub(weight(row));
            fits
        })
        .collect();
    if kept.len() < count {
        kept.push(vec![("truncated", int((count - kept.len()) as u64))]);
    }
    kept
}

/// Room for what [`cut_lists`] says.
const SAYING: usize = 512;

/// A document of named lists and objects that fits into `room` bytes: the lists are cut, all to about the same length
/// in bytes, so that a short one stays whole; `truncated` says how many rows each has lost and where the whole is.
pub fn cut_lists(mut document: Map<String, Value>, room: usize, whole: &str) -> Map<String, Value> {
    let rows: Vec<(String, Vec<usize>)> = document
        .iter()
        .filter_map(|(name, value)| {
            let lengths = value
                .as_array()?
                .iter()
                .map(|row| row.to_string().len() + 1);
            Some((name.clone(), lengths.collect()))
        })
        .collect();
    let lists: usize = rows.iter().flat_map(|(_, lengths)| lengths).sum();
    let rest = Value::Object(document.clone()).to_string().len() - lists;
    let room = room.saturating_sub(rest + SAYING + whole.len());
    // How many rows of a list fit into so many bytes, and how many bytes they take.
    let fit = |lengths: &[usize], most: usize| {
        let mut taken = 0;
        let kept = lengths.iter().take_while(|length| {
            let fits = taken + **length <= most;
            taken += if fits { **length } else { 0 };
            fits
        });
        (kept.count(), taken)
    };
    let taken = |most: usize| -> usize { rows.iter().map(|(_, l)| fit(l, most).1).sum() };
    let (mut most, mut too_much) = (0, room + 1);
    while too_much - most > 1 {
        let middle = most + (too_much - most) / 2;
        if taken(middle) <= room {
            most = middle;
        } else {
            too_much = middle;
        }
    }
    let mut said = Map::new();
    for (name, lengths) in &rows {
        let kept = fit(lengths, most).0;
        if let Some(Value::Array(list)) = document.get_mut(name) {
            list.truncate(kept);
        }
        if kept < lengths.len() {
            said.insert(name.clone(), Value::from(lengths.len() - kept));
        }
    }
    said.insert("whole".to_owned(), Value::from(whole));
    document.insert("truncated".to_owned(), Value::Object(said));
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_in_json() {
        let fields = vec![
            ("b", int(1)),
            ("a", Node::Count(u64::MAX)),
            ("c", real(f64::NAN)),
        ];
        assert_eq!(
            fields_to_json(&fields).to_string(),
            r#"{"b":1,"a":18446744073709551615,"c":0.0}"#
        );
    }

    #[test]
    fn an_answer_of_each_kind_is_json() {
        let row = || vec![("a", int(1))];
        for (answer, json) in [
            (Answer::One(row()), r#"{"a":1}"#),
            (Answer::Many(vec![row(), row()]), r#"[{"a":1},{"a":1}]"#),
            (Answer::Text("plain".into()), r#""plain""#),
        ] {
            assert_eq!(to_json(&answer).to_string(), json);
        }
    }

    #[test]
    fn what_a_row_weighs_is_at_least_its_json_and_not_much_more() {
        const MANY: u64 = 4_000_000_000_000;
        let texts = |length: usize| Node::Texts(vec!["x".repeat(length); 50]);
        for node in [
            Node::Text("x".repeat(100)),
            Node::Count(MANY),
            texts(1),
            texts(30),
            Node::Counts(vec![MANY; 50]),
            Node::Reals(vec![4_000_000_000.5; 50]),
            Node::List(vec![vec![("name", Node::Count(MANY))]; 50]),
        ] {
            let row = vec![("a", node)];
            let json = fields_to_json(&row).to_string().len();
            let weighed = weight(&row);
            assert!((json..2 * json).contains(&weighed), "{weighed} {row:?}");
        }
    }

    #[test]
    fn lists_of_a_document_are_cut_to_the_same_length_and_what_is_lost_is_said() {
        let list = |rows: usize| Value::from(vec!["x".repeat(97); rows]); // 100 bytes each in the list
        let mut document = Map::new();
        document.insert("status".to_owned(), Value::from("y".repeat(1000)));
        for (name, rows) in [("long", 200), ("longer", 400), ("short", 3), ("none", 0)] {
            document.insert(name.to_owned(), list(rows));
        }
        for room in [0, 1500, 4000, 10_000, 30_000] {
            let cut = cut_lists(document.clone(), room, "there");
            let length = |name: &str| cut[name].as_array().map_or(0, Vec::len);
            let text = Value::Object(cut.clone()).to_string();
            assert_eq!(cut["status"], document["status"]);
            assert_eq!(cut["truncated"]["whole"], "there");
            assert_eq!(
                cut["truncated"]["longer"].as_u64(),
                Some(400 - length("longer") as u64)
            );
            if room >= 4000 {
                assert!(
                    text.len() <= room && text.len() > room - 800,
                    "{} of {room}",
                    text.len()
                );
                assert_eq!(length("short"), 3, "a short list stays whole");
                assert!(cut["truncated"]["short"].is_null());
                assert!(length("long").abs_diff(length("longer")) <= 1 || length("long") == 200);
            } else {
                assert_eq!(length("long"), 0);
            }
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_counted_in_a_last_row() {
        let row = vec![("name", word("x".repeat(1000)))];
        let kept = cut(vec![row.clone(); 100]);
        assert!(kept.len() < 30);
        let missing = 100 - (kept.len() - 1);
        assert_eq!(kept.last(), Some(&vec![("truncated", int(missing as u64))]));
        assert_eq!(cut(vec![row; 3]).len(), 3);
    }
}
