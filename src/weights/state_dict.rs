//! The tensors that a PyTorch pickle describes: dictionaries flattened with dots, calls that would have built tensors
//! taken for their arguments, everything else left out. Must not believe a number; see [`super::torch`].

use std::collections::HashMap;

use super::element::Element;
use super::pickle::{Id, Node, Pickle};

/// Dictionaries inside dictionaries, at most.
const MAX_DEPTH: usize = 16;

/// Values visited while collecting tensors, at most: a few KB of pickle can name the same dictionary exponentially often.
const MAX_VISITS: usize = 1 << 20;

/// Bytes of all names together, at most.
const MAX_NAMES: usize = 64 << 20;

/// A named run of elements.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pub(crate) key: String,
    pub(crate) element: Element,
}

/// A tensor as the pickle describes it, not yet believed.
#[derive(Debug, Clone)]
pub(crate) struct Described {
    pub(crate) storage: Storage,
    /// In elements.
    pub(crate) offset: u64,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

/// Why a pickle gives no tensors.
pub(crate) enum Problem {
    /// It is a PyTorch file but a wrong one.
    Damaged(String),
    /// It is a fine file of another kind.
    Foreign(String),
}

/// All tensors of a pickle with their names.
pub(crate) fn tensors(pickle: &Pickle) -> std::result::Result<Vec<(String, Described)>, Problem> {
    let mut collector = Collector { pickle, found: Vec::new(), visits: 0, names: 0 };
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

/// Walks the pickle's value and collects its tensors, nested dictionaries flattened with dots.
struct Collector<'a> {
    pickle: &'a Pickle,
    found: Vec<(String, Described)>,
    visits: usize,
    names: usize,
}

impl<'a> Collector<'a> {
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
