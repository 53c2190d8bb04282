//! The TOML file: the same keys as the environment, in lower case without `LUNA_`.
#![forbid(unsafe_code)]

use core::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Error, SeqAccess, Visitor};

use super::ConfigError;

/// A value of any kind that makes sense to people: `6379`, `"6379,7000-7999"`, `[6379, 7000]`,
/// `true`. All are read as the text that the environment would have.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Text)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number, true, false, or a list of these")
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<String, A::Error> {
        let mut items = Vec::new();
        while let Some(Text(item)) = list.next_element()? {
            items.push(item);
        }
        Ok(items.join(","))
    }
}

macro_rules! file {
    ($($key:ident),*) => {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            $($key: Option<Text>,)*
        }

        /// The keys of the file and their values as text.
        pub(super) fn read(path: &Path) -> Result<Vec<(&'static str, String)>, ConfigError> {
            let text = std::fs::read_to_string(path)
                .map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
            let file: File = toml::from_str(&text).map_err(|error| ConfigError::Syntax {
                path: path.to_owned(),
                message: error.to_string().trim_end().to_owned(),
            })?;
            let mut pairs = Vec::new();
            $(pairs.extend(file.$key.map(|Text(value)| (stringify!($key), value)));)*
            Ok(pairs)
        }

        /// Every key that the file may have.
        #[cfg(test)]
        pub(super) const KEYS: &[&str] = &[$(stringify!($key)),*];
    };
}

file!(
    dev,
    listen,
    connect,
    client_ports,
    mode,
    shards,
    queues,
    busy,
    log,
    strict,
    disable,
    hairpin,
    spin,
    steward_after,
    forking,
    prefork,
    congestion,
    pacing,
    datacenter,
    io_uring
);
