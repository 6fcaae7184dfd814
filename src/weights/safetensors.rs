//! The header of a safetensors file, checked as the format demands before a single tensor is believed.
//!
//! Format: 8 bytes little-endian header length, a JSON object `name -> {dtype, shape, data_offsets}`, then the data
//! without gaps. <https://github.com/huggingface/safetensors#format>

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::element::Element;
use super::entry::{Entry, Source};
use crate::error::{Error, Result};

/// The format's own limit: longer headers are refused by every reader.
const MAX_HEADER: u64 = 100_000_000;

#[derive(Deserialize)]
struct Description {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// The header in file order. A visitor and not a map, because a map would swallow a name given twice.
struct Header(Vec<(String, Description)>, Metadata);

/// What a file says about itself: texts by name. Anything else in their place is left out.
pub(crate) type Metadata = BTreeMap<String, String>;

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensor descriptions")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let mut tensors = Vec::new();
                let mut metadata = Metadata::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if let serde_json::Value::Object(object) = map.next_value()? {
                            metadata = object.into_iter().filter_map(text).collect();
                        }
                    } else {
                        tensors.push((name, map.next_value::<Description>()?));
                    }
                }
                Ok(Header(tensors, metadata))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

fn text((name, value): (String, serde_json::Value)) -> Option<(String, String)> {
    match value {
        serde_json::Value::String(value) => Some((name, value)),
        _ => None,
    }
}

fn element(dtype: &str) -> Option<Element> {
    Some(match dtype {
        "BOOL" => Element::Bool,
        "U8" => Element::U8,
        "I8" => Element::I8,
        "F8_E4M3" => Element::F8E4M3,
        "F8_E5M2" => Element::F8E5M2,
        "U16" => Element::U16,
        "I16" => Element::I16,
        "F16" => Element::F16,
        "BF16" => Element::Bf16,
        "U32" => Element::U32,
        "I32" => Element::I32,
        "F32" => Element::F32,
        "U64" => Element::U64,
        "I64" => Element::I64,
        "F64" => Element::F64,
        _ => return None,
    })
}

/// Reads and checks the header; `index` is the source's number in its checkpoint.
pub(crate) fn entries(source: &Source, index: usize) -> Result<(BTreeMap<String, Entry>, Metadata)> {
    let damaged = |reason: String| {
        Error::file(&source.path, format!("not a valid safetensors file: {reason}"))
            .with_hint("the file is damaged or cut short: fetch it again")
    };
    let mut reader = &source.file;
    let mut length = [0u8; 8];
    if source.len < 8 {
        return Err(damaged(format!("{} bytes are too few for a header", source.len)));
    }
    reader.read_exact(&mut length).map_err(|e| Error::io(&source.path, e))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(damaged(format!("it announces a header of {length} bytes")));
    }
    if length > source.len - 8 {
        return Err(damaged(format!("it announces a header of {length} bytes but has {} in all", source.len)));
    }
    let mut json = vec![0u8; length as usize];
    reader.read_exact(&mut json).map_err(|e| Error::io(&source.path, e))?;
    let Header(described, metadata) =
        serde_json::from_slice(&json).map_err(|e| damaged(format!("its header is unreadable: {e}")))?;
    drop(json);

    let start = 8 + length;
    let available = source.len - start;
    let mut names = BTreeSet::new();
    let mut ranges = Vec::with_capacity(described.len());
    for (name, tensor) in &described {
        if !names.insert(name.as_str()) {
            return Err(damaged(format!("tensor `{name}` is there twice")));
        }
        ranges.push((tensor.data_offsets, name.as_str()));
    }
    ranges.sort_unstable();
    let mut end = 0;
    for ((from, to), name) in ranges {
        if from != end || to < from {
            return Err(damaged(format!("tensor `{name}` claims bytes {from}..{to}, expected to start at {end}")));
        }
        if to > available {
            return Err(damaged(format!("tensor `{name}` ends at byte {to} of the data, the file has {available}")));
        }
        end = to;
    }
    if end != available {
        return Err(damaged(format!("{} bytes after the last tensor", available - end)));
    }

    let mut entries = BTreeMap::new();
    for (name, tensor) in described {
        let (from, to) = tensor.data_offsets;
        let Some(element) = element(&tensor.dtype) else {
            return Err(Error::file(&source.path, format!("tensor `{name}` has the unknown type {}", tensor.dtype)));
        };
        let shape = format!("{:?}", tensor.shape);
        let entry = Entry::dense(index, start + from, element, tensor.shape).filter(|entry| entry.span() == to - from);
        let Some(entry) = entry else {
            return Err(damaged(format!("tensor `{name}` of shape {shape} does not fit its {} bytes", to - from)));
        };
        entries.insert(name, entry);
    }
    Ok((entries, metadata))
}
