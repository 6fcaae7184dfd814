//! A job file as it is written: values with the lines they stand on. TOML in, and what is wrong with it by file, line and key.

use impasto::Error;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// More faults than these are not told.
const TOLD: usize = 20;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The line, from 1.
    pub(super) line: usize,
    /// The value.
    pub(super) item: Item,
}

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Item {
    /// A text, a number, true or false.
    One(Value),
    /// A list.
    List(Vec<Entry>),
    /// A table, in the order of its lines.
    Table(Vec<(String, Entry)>),
}

/// What is wrong with a file: all of it, so that it is mended in one go.
#[derive(Debug)]
pub(super) struct Faults {
    file: String,
    found: Vec<Error>,
    more: usize,
}

impl Faults {
    /// None yet.
    pub(super) fn new(file: String) -> Self {
        Self { file, found: Vec::new(), more: 0 }
    }

    /// Adds a fault of a key on a line, and what to do about it.
    pub(super) fn add(&mut self, line: usize, key: &str, reason: impl Into<String>, hint: Option<String>) {
        let reason = reason.into();
        let key = if key.is_empty() { String::new() } else { format!(": {key}") };
        let error = Error::usage(format!("{}:{line}{key}", self.file), reason);
        let told = |known: &Error| known.to_string() == error.to_string();
        if self.found.iter().any(told) {
            return;
        }
        if self.found.len() == TOLD {
            self.more += 1;
        } else {
            self.found.push(hint.into_iter().fold(error, Error::with_hint));
        }
    }

    /// The file.
    pub(super) fn file(&self) -> &str {
        &self.file
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The faults, the last one apart; nothing where there is none.
    pub(super) fn into_errors(mut self) -> Option<(Vec<Error>, Error)> {
        if self.more > 0 {
            let file = std::mem::take(&mut self.file);
            self.found.push(Error::usage(file, format!("{} more of the kind", self.more)));
        }
        let last = self.found.pop()?;
        Some((self.found, last))
    }
}

/// Reads the text of a file; a table is never empty-handed: what could not be read is a fault.
pub(super) fn parse(text: &str, faults: &mut Faults) -> Vec<(String, Entry)> {
    let lines = Lines::of(text);
    match DeTable::parse(text) {
        Ok(table) => lines.table(table.get_ref(), faults),
        Err(error) => {
            let line = error.span().map_or(1, |span| lines.at(span.start));
            faults.add(line, "", error.message().replace('\n', " "), None);
            Vec::new()
        }
    }
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    fn at(&self, byte: usize) -> usize {
        self.0.partition_point(|start| *start <= byte)
    }

    fn table(&self, table: &DeTable<'_>, faults: &mut Faults) -> Vec<(String, Entry)> {
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, value)| (key.span().start, value.span().start));
        let entry = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
            let entry = self.entry(key.get_ref(), value, faults)?;
            Some((key.get_ref().to_string(), Entry { line: self.at(key.span().start), ..entry }))
        };
        entries.into_iter().filter_map(entry).collect()
    }

    fn entry(&self, key: &str, value: &Spanned<DeValue<'_>>, faults: &mut Faults) -> Option<Entry> {
        let line = self.at(value.span().start);
        let mut wrong = |reason: String| {
            faults.add(line, key, reason, None);
            None
        };
        let item = match value.get_ref() {
            DeValue::String(text) => Item::One(Value::from(text.as_ref())),
            DeValue::Boolean(it) => Item::One(Value::from(*it)),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Item::One(Value::from(number)),
                // Seeds go further than signed numbers.
                Err(_) => match u64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => Item::One(Value::from(number)),
                    Err(_) => return wrong(format!("{number} is too large a number")),
                },
            },
            DeValue::Float(number) => match number.as_str().parse::<f64>() {
                Ok(finite) if finite.is_finite() => Item::One(Value::from(finite)),
                _ => return wrong(format!("{number} is not a number that can be used")),
            },
            DeValue::Datetime(date) => return wrong(format!("{date} is a date, which no key takes")),
            DeValue::Array(list) => Item::List(list.iter().filter_map(|item| self.entry(key, item, faults)).collect()),
            DeValue::Table(table) => Item::Table(self.table(table, faults)),
        };
        Some(Entry { line, item })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_their_lines_and_keep_their_order() {
        let mut faults = Faults::new("a.toml".into());
        let text = "b = 1\n\n[[job]]\nz = [\n  1,\n  2,\n]\na.c = 'x'\n[job.matrix]\nm = 1\n[[job]]\n";
        let top = parse(text, &mut faults);
        assert!(faults.is_empty());
        assert_eq!(
            top.iter().map(|(name, entry)| (name.as_str(), entry.line)).collect::<Vec<_>>(),
            [("b", 1), ("job", 3)]
        );
        let Item::List(jobs) = &top[1].1.item else { panic!() };
        assert_eq!(jobs.iter().map(|job| job.line).collect::<Vec<_>>(), [3, 11]);
        let Item::Table(job) = &jobs[0].item else { panic!() };
        assert_eq!(job.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["z", "a", "matrix"]);
        let Item::List(list) = &job[0].1.item else { panic!() };
        assert_eq!(list.iter().map(|item| item.line).collect::<Vec<_>>(), [5, 6]);
    }

    #[test]
    fn what_is_no_value_is_told_with_its_line() {
        for (text, line, word) in [
            ("a = \n", 1, "value"),
            ("a = 1\na = 2\n", 2, "duplicate"),
            ("\na = inf\n", 2, "inf"),
            ("a = 99999999999999999999\n", 1, "large"),
            ("\n\nd = 2020-01-01\n", 3, "date"),
        ] {
            let mut faults = Faults::new("a.toml".into());
            parse(text, &mut faults);
            let told = faults.into_errors().unwrap().1.to_string();
            assert!(told.starts_with(&format!("a.toml:{line}")) && told.contains(word), "{text:?}: {told}");
        }
    }
}
