//! Reads `{…, KEY: [row, row, …], …}` row by row: an answer of a hundred megabytes is never a tree in memory.

use std::fmt;
use std::io::Read;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Reads one object and hands each element of the list `key` to `row`; the other members are returned.
pub(super) fn rows<R: Read>(
    reader: R,
    key: &str,
    mut row: impl FnMut(Value),
) -> serde_json::Result<Map<String, Value>> {
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    deserializer.deserialize_map(Object { key, row: &mut row })
}

struct Object<'a, F> {
    key: &'a str,
    row: &'a mut F,
}

impl<'de, F: FnMut(Value)> Visitor<'de> for Object<'_, F> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut head = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            if name == self.key {
                access.next_value_seed(List { row: &mut *self.row })?;
            } else {
                head.insert(name, access.next_value()?);
            }
        }
        Ok(head)
    }
}

struct List<'a, F> {
    row: &'a mut F,
}

impl<'de, F: FnMut(Value)> DeserializeSeed<'de> for List<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(Value)> Visitor<'de> for List<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        while let Some(value) = access.next_element()? {
            (self.row)(value);
        }
        Ok(())
    }
}
