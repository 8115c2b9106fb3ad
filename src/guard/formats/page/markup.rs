//! Text within HTML: escaping, numbers for people, UTC times.
//! Forbidden here: markup of its own, and letting any byte of foreign text be markup.

use std::fmt::{Display, Formatter, Result, Write};

/// Foreign text: escaped for content and attributes, without control characters, cut to 72 characters.
pub struct Text<T>(pub T);

impl<T: AsRef<str>> Display for Text<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        Cut(&self.0, 72).fmt(f)
    }
}

/// As [`Text`], cut to a number of characters; the rest becomes "…".
pub struct Cut<T>(pub T, pub usize);

impl<T: AsRef<str>> Display for Cut<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let mut characters = self.0.as_ref().chars();
        characters.by_ref().take(self.1).try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            // Neither NUL and its like nor the characters that turn the writing direction around.
            c if c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                f.write_char('\u{fffd}')
            }
            c => f.write_char(c),
        })?;
        match characters.next() {
            Some(_) => f.write_char('…'),
            None => Ok(()),
        }
    }
}

/// A count with its thousands apart: `1,234,567`.
pub struct Count(pub u64);

impl Display for Count {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let digits = self.0.to_string();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i) % 3 == 0 {
                f.write_char(',')?;
            }
            f.write_char(digit)?;
        }
        Ok(())
    }
}

/// 1/100 percent as percent: `81.2`.
pub struct Percent(pub u32);

impl Display for Percent {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}.{}", self.0 / 100, self.0 % 100 / 10)
    }
}

/// Thousandths per second as a rate: `0.3/s`, `120/s`.
pub struct Rate(pub u64);

impl Display for Rate {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.0 {
            slow @ ..10_000 => write!(f, "{:.1}/s", slow as f64 / 1000.0),
            fast => write!(f, "{}/s", Count(fast / 1000)),
        }
    }
}

/// Unix seconds as time of day: `07:38:12`.
pub struct Clock(pub u64);

impl Display for Clock {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let s = self.0 % 86_400;
        write!(f, "{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
    }
}

/// Unix seconds as date and time: `2026-11-21 07:38 UTC`.
pub struct Moment(pub u64);

impl Display for Moment {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (year, month, day) = date(self.0 / 86_400);
        let s = self.0 % 86_400;
        write!(
            f,
            "{year}-{month:02}-{day:02} {:02}:{:02} UTC",
            s / 3600,
            s / 60 % 60
        )
    }
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar: years are counted from March, so that
/// the leap day is a year's last; 400 of them have 146,097 days.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days.saturating_add(719_468); // 0000-03-01 to 1970-01-01
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153; // months from March: 153 days in five of them
    let day = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_never_markup() {
        let text = Text("<a href=\"x\" b='y'>&\0\u{202e}</a>").to_string();
        assert_eq!(
            text,
            "&lt;a href=&quot;x&quot; b=&#39;y&#39;&gt;&amp;\u{fffd}\u{fffd}&lt;/a&gt;"
        );
        assert_eq!(Text("é".repeat(80)).to_string(), "é".repeat(72) + "…");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
            (1_795_226_700, "2026-11-21 02:05 UTC"),
        ] {
            assert_eq!(Moment(seconds).to_string(), text);
        }
    }

    #[test]
    fn numbers_are_easy_to_read() {
        let counts = [0, 999, 1000, 1_234_567].map(|n| Count(n).to_string());
        assert_eq!(counts, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(Percent(8129).to_string(), "81.2");
        assert_eq!(Rate(340).to_string(), "0.3/s");
        assert_eq!(Rate(12_345_678).to_string(), "12,345/s");
    }

    #[test]
    fn a_time_of_day_has_hours_minutes_and_seconds() {
        for (seconds, text) in [(951_782_399, "23:59:59"), (1_795_226_705, "02:05:05")] {
            assert_eq!(Clock(seconds).to_string(), text);
        }
    }
}
