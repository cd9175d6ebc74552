//! Options of the programs: `--name value` and `--flag`, and nothing else.

use std::collections::BTreeMap;
use std::str::FromStr;

/// What was written on the command line.
#[derive(Debug)]
pub struct Options {
    usage: &'static str,
    values: BTreeMap<String, String>,
    flags: Vec<String>,
}

impl Options {
    /// Reads the command line; `flags` are the options without a value.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn parse(
        arguments: impl IntoIterator<Item = String>,
        usage: &'static str,
        flags: &[&str],
    ) -> Result<Self, String> {
        let mut options = Self { usage, values: BTreeMap::new(), flags: Vec::new() };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let name = argument.strip_prefix("--").ok_or_else(|| options.wrong(&argument))?;
            if flags.contains(&name) {
                options.flags.push(name.to_owned());
                continue;
            }
            let value = arguments.next().ok_or_else(|| options.wrong(&argument))?;
            options.values.insert(name.to_owned(), value);
        }
        Ok(options)
    }

    /// True if the flag was written.
    pub fn flag(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag == name)
    }

    /// Takes an option's value; `None` if it was not written.
    ///
    /// # Errors
    /// The value is not one of its kind.
    pub fn take<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let Some(value) = self.values.remove(name) else {
            return Ok(None);
        };
        value.parse().map(Some).map_err(|_| self.wrong(&format!("--{name} {value}")))
    }

    /// Takes an option that must be there.
    ///
    /// # Errors
    /// It is not there, or not one of its kind.
    pub fn need<T: FromStr>(&mut self, name: &str) -> Result<T, String> {
        self.take(name)?.ok_or_else(|| format!("`--{name}` is missing\n{}", self.usage))
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// There is an option that nobody took.
    pub fn finish(self) -> Result<(), String> {
        match self.values.keys().next() {
            Some(name) => Err(self.wrong(&format!("--{name}"))),
            None => Ok(()),
        }
    }

    fn wrong(&self, words: &str) -> String {
        format!("cannot understand `{words}`\n{}", self.usage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Options, String> {
        Options::parse(words.split_whitespace().map(str::to_owned), "usage: x", &["create"])
    }

    #[test]
    fn everything_is_taken_or_refused() {
        let mut options = parse("--count 5 --create --url nats://h").unwrap();
        assert!(options.flag("create") && !options.flag("other"));
        assert_eq!(options.need::<u64>("count"), Ok(5));
        assert_eq!(options.take::<String>("seed"), Ok(None));
        assert!(options.need::<u64>("users").unwrap_err().contains("`--users` is missing"));
        assert!(options.finish().unwrap_err().contains("--url"));
        assert!(parse("--count x").unwrap().take::<u64>("count").unwrap_err().contains("usage: x"));
        for wrong in ["count", "--count", "-c 5"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
