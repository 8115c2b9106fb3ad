//! The closed vocabularies of the contract (levels, classes, modes, pools) and their spelling in every report.
//! Forbidden here: behaviour; these are names and their order only.

/// Declares a closed set of words: an enum with its spelling, its index and its way back from an index.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        #[allow(dead_code)] // not every vocabulary is read back, typed or counted
        impl $name {
            /// Every word, in the order of its number.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];
            /// How many words there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The spelling in RPC answers, logs, statistics and labels.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }

            /// The number that stands for the word in shared memory and in metrics.
            pub const fn index(self) -> usize {
                self as usize
            }

            /// The word of a number; `None` when no word has it.
            pub fn from_index(index: u64) -> Option<$name> {
                Self::ALL.get(usize::try_from(index).ok()?).copied()
            }

            /// The word as an operator types it (exact, lower case).
            pub fn parse(text: &str) -> Option<$name> {
                Self::ALL.iter().copied().find(|w| w.word() == text)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// How close memory is to its end; ordered, and the number is the metric's value.
    Level {
        /// Below every threshold.
        Normal = "normal",
        /// An operator should look; nothing is refused.
        Warning = "warning",
        /// New registrations are refused in a growing share.
        Shedding = "shedding",
        /// Only what is registered already, and priority, gets in.
        Emergency = "emergency",
    }
}

words! {
    /// The class of a REGISTER, cheapest to admit first: the last one is refused first.
    Class {
        /// Expires 0 for all contacts, or `*`: frees memory.
        Unregister = "unregister",
        /// No Contact: asks for the bindings.
        Query = "query",
        /// The authenticated second leg of an admitted first leg.
        Followup = "followup",
        /// The binding is known and has not expired.
        Refresh = "refresh",
        /// On a priority list, or an emergency registration.
        Priority = "priority",
        /// The AoR is known, the contact is new.
        Returning = "returning",
        /// Everything else that adds a binding.
        New = "new",
    }
}

words! {
    /// What the gate does with its decision.
    Mode {
        /// Decides nothing.
        Off = "off",
        /// Counts what it would refuse, refuses nothing.
        Observe = "observe",
        /// Refuses.
        Enforce = "enforce",
    }
}

words! {
    /// What can run out.
    Pool {
        /// Kamailio's shared memory pool: one for the server.
        Shm = "shm",
        /// Kamailio's private pool: one per process.
        Pkg = "pkg",
        /// The machine's or container's memory.
        Os = "os",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_way_to_a_number_and_back() {
        for class in Class::ALL {
            assert_eq!(Class::from_index(class.index() as u64), Some(*class));
            assert_eq!(Class::parse(class.word()), Some(*class));
        }
        assert_eq!(Class::from_index(Class::COUNT as u64), None);
        assert_eq!(Level::parse("Normal"), None);
    }

    #[test]
    fn levels_are_ordered_as_the_contract_numbers_them() {
        assert_eq!(Level::Normal.index(), 0);
        assert_eq!(Level::Emergency.index(), 3);
        assert!(Level::Warning < Level::Shedding);
    }
}
