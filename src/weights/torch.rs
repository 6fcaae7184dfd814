//! PyTorch's own files: the zip form of `torch.save` since 1.6 and the plain stream before it.
//!
//! Both hold a pickle that describes tensors over named storages, and the raw storages. The pickle is read as data (see
//! [`super::pickle`]); every tensor's place is checked against its storage and the storage against the file, so that a
//! lying description is refused here and not discovered while reading.

use std::collections::{BTreeMap, HashMap};

use super::element::Element;
use super::entry::{Entry, Source, count};
use super::pickle::{Id, Node, Pickle};
use crate::error::{Error, Result};

/// The longest pickle worth reading: that of a full Stable Diffusion checkpoint has a few hundred KB.
const MAX_PICKLE: u64 = 64 << 20;

/// Dictionaries inside dictionaries, at most.
const MAX_DEPTH: usize = 16;

/// Values visited while collecting tensors, at most: a few KB of pickle can name the same dictionary exponentially often.
const MAX_VISITS: usize = 1 << 20;

/// Bytes of all names together, at most.
const MAX_NAMES: usize = 64 << 20;

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
    let tensors = Collector::collect(&pickle).map_err(|e| refuse(source, e))?;
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
    let tensors = Collector::collect(&state).map_err(|e| refuse(source, e))?;

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

#[derive(Debug, Clone)]
struct Storage {
    key: String,
    element: Element,
}

#[derive(Debug, Clone)]
struct Described {
    storage: Storage,
    offset: u64,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

enum Problem {
    /// It is a PyTorch file but a wrong one.
    Damaged(String),
    /// It is a fine file of another kind.
    Foreign(String),
}

/// Walks the pickle's value and collects its tensors, nested dictionaries flattened with dots.
struct Collector<'a> {
    pickle: &'a Pickle,
    found: Vec<(String, Described)>,
    visits: usize,
    names: usize,
}

impl<'a> Collector<'a> {
    fn collect(pickle: &'a Pickle) -> std::result::Result<Vec<(String, Described)>, Problem> {
        let mut collector = Self { pickle, found: Vec::new(), visits: 0, names: 0 };
        let mut root = pickle.root;
        if let Node::Dict(entries) = pickle.get(root) {
            // Training frameworks put the weights beside optimiser states and counters.
            let inner = entries.iter().rev().find(|(key, value)| {
                matches!(pickle.get(*key), Node::Text(key) if key == "state_dict")
                    && matches!(pickle.get(*value), Node::Dict(_))
            });
            if let Some(&(_, value)) = inner {
                root = value;
            }
        }
        if !matches!(pickle.get(root), Node::Dict(_) | Node::List(_) | Node::Tuple(_)) {
            return Err(Problem::Foreign("holds a Python object, not a dictionary of tensors".to_owned()));
        }
        collector.walk(root, &mut String::new(), 0)?;
        if collector.found.is_empty() {
            return Err(Problem::Foreign("holds no tensors".to_owned()));
        }
        Ok(collector.found)
    }

    fn walk(&mut self, id: Id, name: &mut String, depth: usize) -> std::result::Result<(), Problem> {
        self.visits += 1;
        self.names += name.len();
        if self.visits > MAX_VISITS || self.names > MAX_NAMES || depth > MAX_DEPTH {
            return Err(Problem::Damaged("its dictionaries are nested without end".to_owned()));
        }
        let pickle = self.pickle;
        match pickle.get(id) {
            Node::Dict(entries) => {
                // Of a key set twice the later value holds, as in Python.
                let mut order: HashMap<&str, usize> = HashMap::new();
                for (position, (key, _)) in entries.iter().enumerate() {
                    if let Node::Text(key) = pickle.get(*key) {
                        order.insert(key, position);
                    }
                }
                for (position, (key, value)) in entries.iter().enumerate() {
                    match pickle.get(*key) {
                        Node::Text(key) if order.get(key.as_str()) == Some(&position) => {
                            self.child(*value, key, name, depth)?;
                        }
                        Node::Int(key) => self.child(*value, &key.to_string(), name, depth)?,
                        _ => {}
                    }
                }
            }
            Node::List(items) | Node::Tuple(items) => {
                for (number, item) in items.iter().enumerate() {
                    self.child(*item, &number.to_string(), name, depth)?;
                }
            }
            Node::Call(..) => {
                if let Some(tensor) =
                    self.tensor(id, 0).map_err(|e| Problem::Damaged(format!("tensor `{name}`: {e}")))?
                {
                    self.found.push((name.clone(), tensor));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn child(&mut self, id: Id, key: &str, name: &mut String, depth: usize) -> std::result::Result<(), Problem> {
        let before = name.len();
        if before > 0 {
            name.push('.');
        }
        name.push_str(key);
        let result = self.walk(id, name, depth + 1);
        name.truncate(before);
        result
    }

    fn items(&self, id: Id) -> &'a [Id] {
        match self.pickle.get(id) {
            Node::Tuple(items) | Node::List(items) => items,
            _ => &[],
        }
    }

    fn global(&self, id: Id) -> &'a str {
        match self.pickle.get(id) {
            Node::Global(name) => name,
            _ => "",
        }
    }

    fn numbers(&self, id: Id) -> Option<Vec<usize>> {
        let number = |&id: &Id| match self.pickle.get(id) {
            Node::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        };
        let items = self.items(id);
        if items.len() > MAX_DEPTH {
            return None;
        }
        items.iter().map(number).collect()
    }

    /// The tensor that a call would have built. None for a call of anything else.
    fn tensor(&self, id: Id, depth: usize) -> std::result::Result<Option<Described>, String> {
        let Node::Call(callable, arguments) = *self.pickle.get(id) else {
            return Ok(None);
        };
        if depth > MAX_DEPTH {
            return Err("wrapped without end".to_owned());
        }
        let function = self.global(callable);
        let arguments = self.items(arguments);
        match function {
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v3" => {
                let &[storage, offset, shape, strides, ..] = arguments else {
                    return Err("too few arguments".to_owned());
                };
                let mut storage = self.storage(storage)?;
                if function.ends_with("v3") {
                    let name = arguments.get(6).map_or("", |&dtype| self.global(dtype));
                    storage.element = dtype(name).ok_or_else(|| format!("unknown element type `{name}`"))?;
                }
                self.view(storage, offset, shape, strides)
            }
            "torch._utils._rebuild_parameter"
            | "torch._utils._rebuild_parameter_with_state"
            | "torch.nn.parameter.Parameter" => match arguments.first() {
                Some(&inner) => self.tensor(inner, depth + 1),
                None => Err("an empty parameter".to_owned()),
            },
            "torch._tensor._rebuild_from_type_v2" | "torch.tensor._rebuild_from_type_v2" => {
                // (function, type, arguments, state): a tensor subclass, whose numbers are those of the tensor.
                let &[function, _, arguments, ..] = arguments else {
                    return Err("too few arguments".to_owned());
                };
                self.rebuilt(function, arguments)
            }
            _ => Ok(None),
        }
    }

    fn rebuilt(&self, function: Id, arguments: Id) -> std::result::Result<Option<Described>, String> {
        if self.global(function) != "torch._utils._rebuild_tensor_v2" {
            return Ok(None);
        }
        let &[storage, offset, shape, strides, ..] = self.items(arguments) else {
            return Err("too few arguments".to_owned());
        };
        self.view(self.storage(storage)?, offset, shape, strides)
    }

    fn view(
        &self,
        storage: Storage,
        offset: Id,
        shape: Id,
        strides: Id,
    ) -> std::result::Result<Option<Described>, String> {
        let Node::Int(offset) = self.pickle.get(offset) else {
            return Err("its offset is not a number".to_owned());
        };
        let offset = u64::try_from(*offset).map_err(|_| "its offset is negative".to_owned())?;
        let shape = self.numbers(shape).ok_or("its shape is not a list of sizes")?;
        let strides = self.numbers(strides).ok_or("its strides are not a list of sizes")?;
        Ok(Some(Described { storage, offset, shape, strides }))
    }

    /// `('storage', torch.HalfStorage, '17', 'cpu', 1024)`
    fn storage(&self, id: Id) -> std::result::Result<Storage, String> {
        let Node::Persistent(id) = *self.pickle.get(id) else {
            return Err("it has no storage".to_owned());
        };
        let &[tag, kind, key, ..] = self.items(id) else {
            return Err("its storage is not described".to_owned());
        };
        let (Node::Text(tag), Node::Text(key)) = (self.pickle.get(tag), self.pickle.get(key)) else {
            return Err("its storage is not described".to_owned());
        };
        if tag != "storage" {
            return Err(format!("unknown kind of storage `{tag}`"));
        }
        let kind = self.global(kind);
        let element = match kind.rsplit('.').next().unwrap_or_default() {
            "FloatStorage" => Element::F32,
            "HalfStorage" => Element::F16,
            "BFloat16Storage" => Element::Bf16,
            "DoubleStorage" => Element::F64,
            "LongStorage" => Element::I64,
            "IntStorage" => Element::I32,
            "ShortStorage" => Element::I16,
            "CharStorage" => Element::I8,
            "ByteStorage" | "UntypedStorage" => Element::U8,
            "BoolStorage" => Element::Bool,
            _ => return Err(format!("storage of the unknown type `{kind}`")),
        };
        Ok(Storage { key: key.clone(), element })
    }
}

fn dtype(name: &str) -> Option<Element> {
    Some(match name.strip_prefix("torch.")? {
        "float32" => Element::F32,
        "float16" => Element::F16,
        "bfloat16" => Element::Bf16,
        "float64" => Element::F64,
        "float8_e4m3fn" => Element::F8E4M3,
        "float8_e5m2" => Element::F8E5M2,
        "int64" => Element::I64,
        "int32" => Element::I32,
        "int16" => Element::I16,
        "int8" => Element::I8,
        "uint8" => Element::U8,
        "uint16" => Element::U16,
        "uint32" => Element::U32,
        "uint64" => Element::U64,
        "bool" => Element::Bool,
        _ => return None,
    })
}
