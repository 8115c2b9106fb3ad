//! The text parameters as the configuration gave them.
//! Forbidden here: judging a value; that is done when its line is read.

use super::params::{Kind, Text};

/// The text parameters as the configuration gave them.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    values: [Vec<String>; Text::COUNT],
}

impl Texts {
    /// A single value: the last one given, or the default.
    pub fn get(&self, text: Text) -> &str {
        let given = self.values.get(text as usize).and_then(|v| v.last());
        match (given, text.param().kind) {
            (Some(value), _) => value,
            (None, Kind::Text { default, .. }) => default,
            _ => "",
        }
    }

    /// The values given so far, to add one; by the parameter's number.
    pub fn given(&mut self, index: usize) -> Option<&mut Vec<String>> {
        self.values.get_mut(index)
    }

    /// All values of a list.
    pub fn list(&self, text: Text) -> &[String] {
        self.values.get(text as usize).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_counts_then_the_default_and_a_list_has_all() {
        let mut texts = Texts::default();
        assert_eq!(texts.get(Text::ReplyReason), "Server Memory Low");
        assert_eq!(texts.get(Text::PriorityAor), "", "a list has no default");
        for (text, value) in [
            (Text::ReplyReason, "Busy"),
            (Text::ReplyReason, "Later"),
            (Text::PriorityAor, "a@x.test"),
            (Text::PriorityAor, "b@x.test"),
        ] {
            let given = texts.given(text as usize).expect("it has a number");
            given.push(value.into());
        }
        assert_eq!(texts.get(Text::ReplyReason), "Later");
        assert_eq!(texts.list(Text::PriorityAor), ["a@x.test", "b@x.test"]);
        assert_eq!(texts.list(Text::PriorityDomain), [""; 0]);
        assert_eq!(texts.given(Text::COUNT), None);
    }
}
