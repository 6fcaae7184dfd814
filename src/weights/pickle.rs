//! Python pickles, read as data: no class is looked up, no function is called, nothing in the file can act.
//!
//! The stream is a program for a small stack machine. Here its values live in one arena and refer to each other by
//! number, so hostile nesting and cycles cost nothing to build or to drop; every instruction consumes input and adds at
//! most one value, so memory is bounded by the length of the stream. What a pickle wants to construct becomes either
//! one of the few shapes PyTorch's own state dictionaries are made of, or [`Node::Opaque`], which nobody reads.
//!
//! Reference: the comments of CPython's `Lib/pickletools.py`.

use std::collections::HashMap;

/// Names a value in the arena.
pub(crate) type Id = usize;

/// A value of the pickle.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// `None`
    None,
    /// `True`, `False`
    Bool(bool),
    /// An integer that fits 64 bits.
    Int(i64),
    /// Text, or bytes that are text.
    Text(String),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list.
    List(Vec<Id>),
    /// A dictionary, in insertion order, later entries not yet merged with earlier ones.
    Dict(Vec<(Id, Id)>),
    /// A class or function by name: `module.name`.
    Global(String),
    /// `persistent_load(id)`: in a PyTorch file, a storage.
    Persistent(Id),
    /// The call of a global with arguments: kept, never made.
    Call(Id, Id),
    /// Something that is of no interest here: floats, sets, instances of classes.
    Opaque,
}

/// All values of a pickle and which of them it leaves behind.
#[derive(Debug)]
pub(crate) struct Pickle {
    nodes: Vec<Node>,
    /// The value that was pickled.
    pub(crate) root: Id,
    /// Bytes of the input that belonged to this pickle.
    pub(crate) length: usize,
}

impl Pickle {
    /// The value behind a number.
    pub(crate) fn get(&self, id: Id) -> &Node {
        self.nodes.get(id).unwrap_or(&Node::Opaque)
    }

    /// Runs a pickle.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut machine = Machine {
            input: bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            copied: 0,
        };
        let root = machine.run()?;
        Ok(Self { root, length: machine.at, nodes: machine.nodes })
    }
}

struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
    /// Entries copied out of other values, which must not outgrow the input.
    copied: usize,
}

/// A class name longer than this is no class name.
const MAX_GLOBAL: usize = 1000;

type Step<T> = Result<T, String>;

impl Machine<'_> {
    fn bytes(&mut self, count: usize) -> Step<&[u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.input.len());
        let Some(end) = end else {
            return Err(format!("the pickle ends in the middle of an instruction at byte {}", self.at));
        };
        let slice = &self.input[self.at..end];
        self.at = end;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Step<[u8; N]> {
        let mut out = [0u8; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    fn u8(&mut self) -> Step<usize> {
        Ok(usize::from(self.array::<1>()?[0]))
    }

    fn u32(&mut self) -> Step<usize> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn u64(&mut self) -> Step<usize> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| "a length beyond memory".to_owned())
    }

    fn line(&mut self) -> Step<String> {
        let rest = &self.input[self.at..];
        let Some(end) = rest.iter().position(|&b| b == b'\n') else {
            return Err(format!("the pickle ends in the middle of a line at byte {}", self.at));
        };
        let text = String::from_utf8_lossy(&rest[..end]).trim_end_matches('\r').to_owned();
        self.at += end + 1;
        Ok(text)
    }

    fn add(&mut self, node: Node) -> Id {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn push(&mut self, node: Node) {
        let id = self.add(node);
        self.stack.push(id);
    }

    fn text(&mut self, count: usize) -> Step<()> {
        let node = match std::str::from_utf8(self.bytes(count)?) {
            Ok(text) => Node::Text(text.to_owned()),
            Err(_) => Node::Opaque,
        };
        self.push(node);
        Ok(())
    }

    fn integer(&mut self, count: usize) -> Step<()> {
        let bytes = self.bytes(count)?;
        let node = if bytes.len() <= 8 {
            let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
            let mut wide = [if negative { 0xff } else { 0 }; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            Node::Int(i64::from_le_bytes(wide))
        } else {
            Node::Opaque
        };
        self.push(node);
        Ok(())
    }

    fn pop(&mut self) -> Step<Id> {
        // A value below the last mark belongs to whoever set the mark.
        if self.marks.last().is_some_and(|&mark| self.stack.len() <= mark) {
            return Err(format!("an instruction before byte {} takes a value across a mark", self.at));
        }
        self.stack
            .pop()
            .ok_or_else(|| format!("an instruction before byte {} needs a value that is not there", self.at))
    }

    fn top(&self) -> Step<Id> {
        self.stack
            .last()
            .copied()
            .ok_or_else(|| format!("an instruction before byte {} needs a value that is not there", self.at))
    }

    fn since_mark(&mut self) -> Step<Vec<Id>> {
        let Some(mark) = self.marks.pop() else {
            return Err(format!("an instruction before byte {} needs a mark that is not there", self.at));
        };
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn extend_list(&mut self, list: Id, items: &[Id]) {
        // What is filled like a list but made by a call is a list subclass: its contents do not matter.
        if let Some(Node::List(values)) = self.nodes.get_mut(list) {
            values.extend_from_slice(items);
        }
    }

    fn extend_dict(&mut self, dict: Id, items: &[Id]) {
        if let Some(Node::Dict(entries)) = self.nodes.get_mut(dict) {
            entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        }
    }

    fn remember(&mut self, key: u64) -> Step<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Step<()> {
        let Some(&id) = self.memo.get(&key) else {
            return Err(format!("it refers to value {key}, which it has not stored"));
        };
        self.stack.push(id);
        Ok(())
    }

    fn number(text: &str) -> Step<u64> {
        text.trim().parse().map_err(|_| format!("`{}` is not a memo number", text.chars().take(20).collect::<String>()))
    }

    /// `callable(*arguments)`, not made. An OrderedDict is built here because its entries are set afterwards.
    fn call(&mut self, callable: Id, arguments: Id) -> Step<()> {
        let name = match self.nodes.get(callable) {
            Some(Node::Global(name)) => name.as_str(),
            _ => "",
        };
        let node = match name {
            "collections.OrderedDict" | "collections.defaultdict" | "builtins.dict" | "__builtin__.dict" => {
                let pairs = self.pairs(arguments);
                self.copied = self.copied.saturating_add(pairs.len());
                if self.copied > self.input.len() {
                    return Err("it repeats the same entries without end".to_owned());
                }
                Node::Dict(pairs)
            }
            _ => Node::Call(callable, arguments),
        };
        self.push(node);
        Ok(())
    }

    /// The entries of `OrderedDict([[key, value], ..])`, as old Pythons pickle them.
    fn pairs(&self, arguments: Id) -> Vec<(Id, Id)> {
        let sequence = |id: Id| match self.nodes.get(id) {
            Some(Node::Tuple(items) | Node::List(items)) => items.as_slice(),
            _ => &[],
        };
        let Some(&first) = sequence(arguments).first() else {
            return Vec::new();
        };
        sequence(first).iter().filter_map(|&pair| Some((*sequence(pair).first()?, *sequence(pair).get(1)?))).collect()
    }

    fn run(&mut self) -> Step<Id> {
        loop {
            let code = self.array::<1>()?[0];
            match code {
                b'.' => return self.stack.pop().ok_or_else(|| "the pickle holds nothing".to_owned()),
                // Framing, which only says how much to read ahead.
                0x80 => {
                    self.bytes(1)?;
                }
                0x95 => {
                    self.bytes(8)?;
                }
                // The stack itself.
                b'(' => self.marks.push(self.stack.len()),
                b'0' => {
                    // POP on an empty part of the stack drops the mark.
                    if self.marks.last() == Some(&self.stack.len()) {
                        self.marks.pop();
                    } else {
                        self.pop()?;
                    }
                }
                b'1' => {
                    self.since_mark()?;
                }
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                // Memory.
                b'q' => {
                    let key = self.u8()? as u64;
                    self.remember(key)?;
                }
                b'r' => {
                    let key = self.u32()? as u64;
                    self.remember(key)?;
                }
                b'p' => {
                    let key = Self::number(&self.line()?)?;
                    self.remember(key)?;
                }
                0x94 => self.remember(self.memo.len() as u64)?,
                b'h' => {
                    let key = self.u8()? as u64;
                    self.recall(key)?;
                }
                b'j' => {
                    let key = self.u32()? as u64;
                    self.recall(key)?;
                }
                b'g' => {
                    let key = Self::number(&self.line()?)?;
                    self.recall(key)?;
                }
                // Plain values.
                b'N' => self.push(Node::None),
                0x88 => self.push(Node::Bool(true)),
                0x89 => self.push(Node::Bool(false)),
                b'J' => self.integer(4)?,
                b'K' => {
                    let value = self.u8()?;
                    self.push(Node::Int(value as i64));
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.array()?);
                    self.push(Node::Int(i64::from(value)));
                }
                0x8a => {
                    let length = self.u8()?;
                    self.integer(length)?;
                }
                0x8b => {
                    let length = self.u32()?;
                    self.integer(length)?;
                }
                b'I' => {
                    let node = match self.line()?.as_str() {
                        "00" => Node::Bool(false),
                        "01" => Node::Bool(true),
                        text => text.trim().parse().map_or(Node::Opaque, Node::Int),
                    };
                    self.push(node);
                }
                b'L' => {
                    let text = self.line()?;
                    self.push(text.trim_end_matches('L').parse().map_or(Node::Opaque, Node::Int));
                }
                b'G' => {
                    self.bytes(8)?;
                    self.push(Node::Opaque);
                }
                b'F' => {
                    self.line()?;
                    self.push(Node::Opaque);
                }
                b'X' | b'T' | b'B' => {
                    let length = self.u32()?;
                    self.text(length)?;
                }
                0x8c | b'U' | b'C' => {
                    let length = self.u8()?;
                    self.text(length)?;
                }
                0x8d | 0x8e | 0x96 => {
                    let length = self.u64()?;
                    self.text(length)?;
                }
                b'V' => {
                    let text = self.line()?;
                    self.push(Node::Text(text));
                }
                b'S' => {
                    let text = self.line()?;
                    self.push(Node::Text(text.trim_matches(['\'', '"']).to_owned()));
                }
                // Containers.
                b')' => self.push(Node::Tuple(Vec::new())),
                b't' => {
                    let items = self.since_mark()?;
                    self.push(Node::Tuple(items));
                }
                0x85..=0x87 => {
                    let mut items = Vec::with_capacity(3);
                    for _ in 0x85..=code {
                        items.push(self.pop()?);
                    }
                    items.reverse();
                    self.push(Node::Tuple(items));
                }
                b']' => self.push(Node::List(Vec::new())),
                b'l' => {
                    let items = self.since_mark()?;
                    self.push(Node::List(items));
                }
                b'a' => {
                    let item = self.pop()?;
                    let list = self.top()?;
                    self.extend_list(list, &[item]);
                }
                b'e' => {
                    let items = self.since_mark()?;
                    let list = self.top()?;
                    self.extend_list(list, &items);
                }
                b'}' => self.push(Node::Dict(Vec::new())),
                b'd' => {
                    let items = self.since_mark()?;
                    self.push(Node::Dict(Vec::new()));
                    let dict = self.top()?;
                    self.extend_dict(dict, &items);
                }
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    let dict = self.top()?;
                    self.extend_dict(dict, &[key, value]);
                }
                b'u' => {
                    let items = self.since_mark()?;
                    let dict = self.top()?;
                    self.extend_dict(dict, &items);
                }
                0x8f => self.push(Node::Opaque),
                0x90 => {
                    self.since_mark()?;
                    self.top()?;
                }
                0x91 => {
                    self.since_mark()?;
                    self.push(Node::Opaque);
                }
                // Classes, functions and calls: named, never made.
                b'c' => {
                    let module = self.line()?;
                    let name = self.line()?;
                    self.push(Node::Global(format!("{module}.{name}")));
                }
                0x93 => {
                    let name = self.pop()?;
                    let module = self.pop()?;
                    let global = match (self.nodes.get(module), self.nodes.get(name)) {
                        (Some(Node::Text(module)), Some(Node::Text(name)))
                            if module.len() + name.len() <= MAX_GLOBAL =>
                        {
                            format!("{module}.{name}")
                        }
                        _ => return Err("a class has something else for a name".to_owned()),
                    };
                    self.push(Node::Global(global));
                }
                b'R' | 0x81 => {
                    let arguments = self.pop()?;
                    let callable = self.pop()?;
                    self.call(callable, arguments)?;
                }
                0x92 => {
                    self.pop()?;
                    let arguments = self.pop()?;
                    let callable = self.pop()?;
                    self.call(callable, arguments)?;
                }
                b'o' => {
                    self.since_mark()?;
                    self.push(Node::Opaque);
                }
                b'i' => {
                    self.line()?;
                    self.line()?;
                    self.since_mark()?;
                    self.push(Node::Opaque);
                }
                b'b' => {
                    // State of an object that is not built. An OrderedDict's `_metadata` comes this way.
                    self.pop()?;
                    self.top()?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    self.push(Node::Persistent(id));
                }
                b'P' => {
                    let text = self.line()?;
                    let id = self.add(Node::Text(text));
                    self.push(Node::Persistent(id));
                }
                // Classes by number in a registry that is not in the file.
                0x82..=0x84 => {
                    self.bytes(1 << (code - 0x82))?;
                    self.push(Node::Opaque);
                }
                _ => return Err(format!("unknown instruction 0x{code:02x} at byte {}", self.at - 1)),
            }
        }
    }
}
