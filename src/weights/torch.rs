//! PyTorch's own files: the zip form of `torch.save` since 1.6 and the plain stream before it.
//!
//! Both hold a pickle that describes tensors over named storages, and the raw storages. The pickle is read as data (see
//! [`super::pickle`]); every tensor's place is checked against its storage and the storage against the file, so that a
//! lying description is refused here and not discovered while reading.

use std::collections::{BTreeMap, HashMap};

use super::element::Element;
use super::entry::{Entry, Source, count};
use super::pickle::{Node, Pickle};
use super::state_dict::{self, Described, Problem};
use crate::error::{Error, Result};

/// The longest pickle worth reading: that of a full Stable Diffusion checkpoint has a few hundred KB.
const MAX_PICKLE: u64 = 64 << 20;

/// What a legacy file starts with: protocol 2, the number 0x1950a86a20f9469cfc6c.
const LEGACY_MAGIC: [u8; 13] = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50];

/// Whether the first bytes are those of a zip file.
pub(crate) fn is_zip(start: &[u8]) -> bool {
    start.starts_with(b"PK\x03\x04")
}

/// Whether the first bytes are those of a pickle, as files before PyTorch 1.6 have them.
pub(crate) fn is_pickle(start: &[u8]) -> bool {
    start.first() == Some(&0x80) && start.get(1).is_some_and(|protocol| (2..=5).contains(protocol))
}

fn damaged(source: &Source, reason: impl std::fmt::Display) -> Error {
    Error::file(&source.path, format!("not a readable PyTorch file: {reason}"))
        .with_hint("the file is damaged or cut short: fetch it again, or a .safetensors version of it")
}

/// Where a storage lies in the file.
#[derive(Debug, Clone, Copy)]
struct Extent {
    offset: u64,
    length: u64,
}

/// The tensors of a zip file.
pub(crate) fn zip_entries(source: &Source, index: usize) -> Result<BTreeMap<String, Entry>> {
    let mut zip = zip::ZipArchive::new(&source.file).map_err(|e| damaged(source, e))?;
    let mut extents = HashMap::new();
    let mut pickle = None;
    let mut script = false;
    for number in 0..zip.len() {
        let file = zip.by_index_raw(number).map_err(|e| damaged(source, e))?;
        let name = file.name().map_err(|e| damaged(source, e))?.into_owned();
        let packed = file.compression() != zip::CompressionMethod::Stored || file.encrypted();
        let extent = Extent { offset: file.data_start().unwrap_or(u64::MAX), length: file.size() };
        if !packed && extent.offset.checked_add(extent.length).is_none_or(|end| end > source.len) {
            return Err(damaged(source, format!("`{name}` in it ends past the end of the file")));
        }
        script |= name.ends_with("/constants.pkl");
        let folder = name.strip_suffix("data.pkl").filter(|folder| folder.is_empty() || folder.ends_with('/'));
        if let (Some(folder), None) = (folder, &pickle) {
            pickle = Some((folder.to_owned(), extent));
        }
        // torch.save never compresses. A repacked archive would have to be unpacked in memory, whatever its true size.
        if !packed {
            extents.insert(name, extent);
        }
    }
    let Some((folder, extent)) = pickle else {
        return Err(Error::file(&source.path, "is a zip archive without the data.pkl of a PyTorch file"));
    };
    if script {
        return Err(Error::file(&source.path, "is a TorchScript program, not a state dictionary")
            .with_hint("save its weights in Python with safetensors.torch.save_file(model.state_dict(), ..)"));
    }
    if !extents.contains_key(&format!("{folder}data.pkl")) {
        return Err(Error::file(&source.path, "is a compressed zip archive; PyTorch files are stored uncompressed"));
    }
    if extent.length > MAX_PICKLE {
        return Err(damaged(source, format!("its pickle has {} bytes", extent.length)));
    }
    if let Some(&order) = extents.get(&format!("{folder}byteorder")) {
        let big = order.length == 3 && source.map(order.offset, order.length)?[..] == *b"big";
        if big {
            return Err(Error::file(&source.path, "was written on a big-endian machine")
                .with_hint("convert it to .safetensors on a little-endian machine"));
        }
    }
    let map = source.map(extent.offset, extent.length)?;
    let pickle = Pickle::parse(&map).map_err(|e| damaged(source, e))?;
    drop(map);
    let tensors = state_dict::tensors(&pickle).map_err(|e| refuse(source, e))?;
    place(source, index, tensors, |key| extents.get(&format!("{folder}data/{key}")).copied())
}

/// The tensors of a file from before PyTorch 1.6: pickles one after the other, then the storages.
pub(crate) fn legacy_entries(source: &Source, index: usize) -> Result<BTreeMap<String, Entry>> {
    let map = source.map(0, source.len.min(MAX_PICKLE))?;
    if !map.starts_with(&LEGACY_MAGIC) {
        return Err(Error::file(&source.path, "is a pickle, but not one that torch.save wrote")
            .with_hint("load it in Python and save it with safetensors.torch.save_file"));
    }
    let mut at = 0usize;
    let mut next = || -> Result<Pickle> {
        let pickle = Pickle::parse(map.get(at..).unwrap_or_default()).map_err(|e| damaged(source, e))?;
        at += pickle.length;
        Ok(pickle)
    };
    next()?; // magic number
    next()?; // protocol version
    next()?; // sizes and byte order of the machine
    let state = next()?;
    let keys = next()?;
    let Node::List(order) = keys.get(keys.root) else {
        return Err(damaged(source, "the list of its storages is missing"));
    };
    let tensors = state_dict::tensors(&state).map_err(|e| refuse(source, e))?;

    let elements: HashMap<&str, Element> =
        tensors.iter().map(|(_, tensor)| (tensor.storage.key.as_str(), tensor.storage.element)).collect();
    let mut extents = HashMap::new();
    let mut position = at as u64;
    for &key in order {
        let Node::Text(key) = keys.get(key) else {
            return Err(damaged(source, "a storage without a name"));
        };
        // A storage no tensor uses has no known element size, so whatever follows it has no known place.
        let Some(&element) = elements.get(key.as_str()) else {
            return Err(damaged(source, format!("storage `{key}` belongs to no tensor"))
                .with_hint("load it in Python and save it with safetensors.torch.save_file"));
        };
        let head = source.map(position, 8).map_err(|_| damaged(source, "the file ends before its last storage"))?;
        let mut numel = [0u8; 8];
        numel.copy_from_slice(&head);
        let length = u64::from_le_bytes(numel).checked_mul(element.size());
        let end =
            length.and_then(|length| position.checked_add(8)?.checked_add(length)).filter(|&end| end <= source.len);
        let (Some(length), Some(end)) = (length, end) else {
            return Err(damaged(source, format!("storage `{key}` ends past the end of the file")));
        };
        extents.insert(key.clone(), Extent { offset: position + 8, length });
        position = end;
    }
    drop(map);
    place(source, index, tensors, |key| extents.get(key).copied())
}

fn refuse(source: &Source, problem: Problem) -> Error {
    match problem {
        Problem::Damaged(reason) => damaged(source, reason),
        Problem::Foreign(reason) => Error::file(&source.path, reason)
            .with_hint("save its weights in Python with safetensors.torch.save_file(model.state_dict(), ..)"),
    }
}

/// Gives every described tensor its place in the file, or says which one has none.
fn place(
    source: &Source,
    index: usize,
    tensors: Vec<(String, Described)>,
    extent: impl Fn(&str) -> Option<Extent>,
) -> Result<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    for (name, tensor) in tensors {
        let key = &tensor.storage.key;
        let element = tensor.storage.element;
        let Some(extent) = extent(key) else {
            return Err(damaged(source, format!("tensor `{name}` lies in storage `{key}`, which is not there")));
        };
        let skip = tensor.offset.checked_mul(element.size());
        let entry = skip
            .and_then(|skip| extent.offset.checked_add(skip))
            .and_then(|offset| Entry::strided(index, offset, element, tensor.shape, tensor.strides));
        // Strides of zero repeat elements: a few bytes could ask for all memory.
        let modest = |entry: &Entry| count(&entry.shape).is_some_and(|n| n <= source.len / element.size());
        let inside = |entry: &Entry| {
            skip.and_then(|skip| skip.checked_add(entry.span())).is_some_and(|end| end <= extent.length)
        };
        let Some(entry) = entry.filter(inside).filter(modest) else {
            return Err(damaged(
                source,
                format!("tensor `{name}` does not fit into its storage of {} bytes", extent.length),
            ));
        };
        if entries.insert(name.clone(), entry).is_some() {
            return Err(damaged(source, format!("tensor `{name}` is there twice")));
        }
    }
    Ok(entries)
}
