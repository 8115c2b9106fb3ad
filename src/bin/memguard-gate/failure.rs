//! How a run ends when it does not end with a verdict.
//! Forbidden here: anything but the kinds and their exit codes.

/// Exit code: nothing leaks.
pub const HELD: u8 = 0;
/// Exit code: a leak or a fault was found.
pub const FOUND: u8 = 1;

/// Why there is no verdict; each a sentence that tells what to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// The command line, or a file that it names, is wrong.
    Usage(String),
    /// The server or the traffic could not be run.
    NotRun(String),
    /// The server died while it was tested; its story.
    Died(String),
}

impl Failure {
    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::NotRun(_) => 3,
            Failure::Died(_) => 4,
        }
    }

    /// The sentence.
    pub fn text(&self) -> &str {
        match self {
            Failure::Usage(text) | Failure::NotRun(text) | Failure::Died(text) => text,
        }
    }
}

/// Shorthand for the most frequent kind.
pub fn not_run(text: impl Into<String>) -> Failure {
    Failure::NotRun(text.into())
}
