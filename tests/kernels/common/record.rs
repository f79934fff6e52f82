//! One line of a guest's results: a kind, and fields by name, separated by tabs.

use std::{collections::BTreeMap, convert::Infallible, fmt, str::FromStr};

/// What a guest found, once it is found. Fields are text; what is not there reads as the empty text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// What kind of finding this is, such as `send`.
    pub kind: String,
    fields: BTreeMap<String, String>,
}

impl Record {
    /// A record without fields.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        Self { kind: kind.to_owned(), fields: BTreeMap::new() }
    }

    /// Adds a field. White space in the value becomes blanks: a record is one line.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        let value = value.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        self.fields.insert(name.to_owned(), value);
        self
    }

    /// The value of a field; empty if there is none.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// The value of a field that is a number; `None` if it is none.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name).parse().ok()
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        self.fields.iter().try_for_each(|(name, value)| write!(f, "\t{name}={value}"))
    }
}

impl FromStr for Record {
    type Err = Infallible;

    fn from_str(line: &str) -> Result<Self, Infallible> {
        let mut parts = line.trim_end().split('\t');
        let kind = parts.next().unwrap_or_default().to_owned();
        let fields = parts.filter_map(|part| part.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        Ok(Self { kind, fields })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_and_reads_back() {
        let record = Record::new("send").with("reason", "a = b\n\tand c").with("bytes", 8);
        let line = record.to_string();
        assert_eq!(line, "send\tbytes=8\treason=a = b and c");
        // A serial line ends lines in its own way.
        assert_eq!(format!("{line}\r").parse(), Ok(record.clone()));
        assert_eq!((record.number("bytes"), record.number("reason"), record.get("none")), (Some(8), None, ""));
    }
}
