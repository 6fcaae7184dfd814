//! Named tensors from a file, whatever the file's form: the one door through which weights come in.
//!
//! Opening reads and checks headers only. A tensor is mapped, converted and unmapped when it is asked for. Names can be
//! changed and tensors split without touching their bytes, so converting a checkpoint costs nothing.
//! Must not know what the names mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;

use super::entry::{Entry, Source};
use super::lora::Change;
use super::{dump, safetensors, torch};
use crate::error::{Error, Result};

/// More shards than this are not a model.
const MAX_SHARDS: usize = 256;

/// The longest index of shards worth reading.
const MAX_INDEX: u64 = 64 << 20;

/// Named tensors in one or more files.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
    sources: Arc<Vec<Source>>,
    entries: BTreeMap<String, Entry>,
    metadata: Arc<safetensors::Metadata>,
    /// What is added to tensors when they are read.
    changes: BTreeMap<String, Vec<Change>>,
}

#[derive(serde::Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, a `.safetensors.index.json` of shards, or a PyTorch `.bin`, `.pt`, `.pth` or
    /// `.ckpt`. The form is told by the content, not by the name. A folder with a `manifest.json` (or that file itself) is a
    /// dump of TensorFlow's variables, one file each.
    ///
    /// # Errors
    /// When the file cannot be read or is not a sound file of one of these forms.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let manifest = path.join(dump::MANIFEST);
        if manifest.is_file() {
            return Self::open(manifest);
        }
        let source = Source::open(path)?;
        let mut start = [0u8; 16];
        let known = source.len.min(16);
        start[..known as usize].copy_from_slice(&source.map(0, known)?);
        let start = &start[..known as usize];

        let mut metadata = safetensors::Metadata::new();
        let mut safetensors = || -> Result<_> {
            let (entries, found) = safetensors::entries(&source, 0)?;
            metadata = found;
            Ok(entries)
        };
        let entries = if torch::is_zip(start) {
            torch::zip_entries(&source, 0)?
        } else if matches!(start, [_, _, _, _, 0, 0, 0, 0, b'{', ..]) {
            // First of the guesses by letter, because its length may begin with any byte, `{` and `<` included.
            safetensors()?
        } else if torch::is_pickle(start) {
            torch::legacy_entries(&source, 0)?
        } else if start.first() == Some(&b'{') {
            return Self::open_shards(path, source.len);
        } else if let Some(reason) = foreign(start) {
            return Err(
                Error::file(path, reason).with_hint("expected .safetensors, or a PyTorch .bin, .pt, .pth or .ckpt")
            );
        } else {
            safetensors()?
        };
        let metadata = Arc::new(metadata);
        Ok(Self {
            path: path.to_path_buf(),
            sources: Arc::new(vec![source]),
            entries,
            metadata,
            changes: BTreeMap::new(),
        })
    }

    /// Opens the files that an index names; they must lie beside it.
    fn open_shards(index: &Path, length: u64) -> Result<Self> {
        if length > MAX_INDEX {
            return Err(Error::file(index, format!("has {length} bytes, too many for an index of shards")));
        }
        let json = std::fs::read(index).map_err(|e| Error::io(index, e))?;
        if let Some((sources, entries)) = dump::entries(index, &json)? {
            return Ok(Self {
                path: index.to_path_buf(),
                sources: Arc::new(sources),
                entries,
                metadata: Arc::default(),
                changes: BTreeMap::new(),
            });
        }
        let parsed: ShardIndex = serde_json::from_slice(&json)
            .map_err(|e| Error::file(index, format!("not an index of weight shards: {e}")))?;
        let folder = index.parent().unwrap_or(Path::new("."));
        let mut sources = Vec::new();
        let mut shards: BTreeMap<&str, BTreeMap<String, Entry>> = BTreeMap::new();
        let mut entries = BTreeMap::new();
        for (name, file) in &parsed.weight_map {
            if !shards.contains_key(file.as_str()) {
                // Only a plain file name: an index from the net must not make us open what lies elsewhere.
                let plain = Path::new(file).file_name().is_some_and(|base| base == file.as_str());
                if !plain || file.contains(['/', '\\', ':']) {
                    return Err(Error::file(index, format!("names the shard `{file}`, which is not a file beside it")));
                }
                if sources.len() == MAX_SHARDS {
                    return Err(Error::file(index, format!("names more than {MAX_SHARDS} shards")));
                }
                let path = folder.join(file);
                if !path.exists() {
                    return Err(Error::file(
                        &path,
                        format!("is missing; {} names it as a part of the weights", index.display()),
                    )
                    .with_hint("fetch all parts of the model into the same folder"));
                }
                let source = Source::open(&path)?;
                let start = source.map(0, source.len.min(4))?;
                let found = if torch::is_zip(&start) {
                    torch::zip_entries(&source, sources.len())?
                } else {
                    safetensors::entries(&source, sources.len())?.0
                };
                shards.insert(file, found);
                sources.push(source);
            }
            let Some(entry) = shards.get(file.as_str()).and_then(|shard| shard.get(name)) else {
                return Err(Error::file(index, format!("says tensor `{name}` is in `{file}`, but it is not")));
            };
            entries.insert(name.clone(), entry.clone());
        }
        if entries.is_empty() {
            return Err(Error::file(index, "names no tensors"));
        }
        Ok(Self {
            path: index.to_path_buf(),
            sources: Arc::new(sources),
            entries,
            metadata: Arc::default(),
            changes: BTreeMap::new(),
        })
    }

    /// Opens the weights of one net in a model folder. For every stem (`diffusion_pytorch_model`, `model`) the plain
    /// file, the shards and the `fp16` and `non_ema` variants are tried; safetensors of any stem come before pickles.
    ///
    /// # Errors
    /// When none of the files is there, or the first one found is not sound.
    pub fn open_net(folder: impl AsRef<Path>, stems: &[&str]) -> Result<Self> {
        Self::open_variant(folder, stems, None)
    }

    /// Like [`Self::open_net`], trying the files of one variant (`fp16`) first.
    ///
    /// # Errors
    /// When none of the files is there, or the first one found is not sound.
    pub fn open_variant(folder: impl AsRef<Path>, stems: &[&str], variant: Option<&str>) -> Result<Self> {
        let folder = folder.as_ref();
        if !folder.is_dir() {
            return Err(Error::file(folder, "no such folder"));
        }
        // The empty variant is the plain file.
        let variants = variant.into_iter().chain(["", "fp16", "non_ema"]).map(|variant| match variant {
            "" => String::new(),
            variant => format!(".{variant}"),
        });
        let variants: Vec<String> = variants.collect();
        for extension in ["safetensors", "bin"] {
            for stem in stems {
                for variant in &variants {
                    let names =
                        [format!("{stem}{variant}.{extension}"), format!("{stem}.{extension}.index{variant}.json")];
                    for name in names {
                        let path = folder.join(name);
                        // A dangling link is there, too: better say that it leads nowhere than that nothing was found.
                        if path.symlink_metadata().is_ok() {
                            return Self::open(path);
                        }
                    }
                }
            }
        }
        let wanted: Vec<String> = stems.iter().map(|stem| format!("{stem}.safetensors")).collect();
        Err(Error::file(
            folder,
            format!("holds no weights: none of {} (or .fp16, sharded, .bin) is there", wanted.join(", ")),
        ))
    }

    /// The file it was opened from; the index if it is sharded.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a safetensors file says about itself (`__metadata__`): texts by name. Empty for other files.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a tensor of this name is there.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// The type of a tensor in the file.
    pub fn dtype(&self, name: &str) -> Option<DType> {
        self.entries.get(name).map(|entry| entry.element.dtype())
    }

    /// Reads one tensor in the wanted type.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(entry) = self.entries.get(name) else {
            return Err(self.missing(name));
        };
        self.read(name, entry, dtype, device)
    }

    fn read(&self, name: &str, entry: &Entry, dtype: DType, device: &Device) -> Result<Tensor> {
        let Some(changes) = self.changes.get(name) else {
            return entry.read(&self.sources, dtype, device);
        };
        let tensor = entry.read(&self.sources, DType::F32, &Device::Cpu)?;
        let tensor = changes.iter().try_fold(tensor, |tensor, change| change.apply(&tensor))?;
        Ok(tensor.to_dtype(dtype)?.to_device(device)?)
    }

    /// Adds to a tensor whenever it is read.
    pub(super) fn change(&mut self, name: &str, change: Change) {
        self.changes.entry(name.to_owned()).or_default().push(change);
    }

    /// The same tensors under new names; those for which `rename` says `None` are left out.
    ///
    /// # Errors
    /// When two tensors would get the same name.
    pub fn rename(&self, mut rename: impl FnMut(&str) -> Option<String>) -> Result<Self> {
        let mut entries = BTreeMap::new();
        for (old, entry) in &self.entries {
            let Some(new) = rename(old) else { continue };
            if entries.insert(new.clone(), entry.clone()).is_some() {
                return Err(Error::file(&self.path, format!("two tensors mean `{new}`, one of them is `{old}`")));
            }
        }
        Ok(self.with(entries))
    }

    /// The tensors whose names start with `prefix`, without it.
    #[must_use]
    pub fn subset(&self, prefix: &str) -> Self {
        let inside = self.entries.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
        self.with(inside.map(|(name, entry)| (name[prefix.len()..].to_owned(), entry.clone())).collect())
    }

    /// Replaces tensor `name` by equal pieces of its rows, under the names given.
    ///
    /// # Errors
    /// When it is not there, its rows do not divide evenly, or a piece's name is taken.
    pub(crate) fn split_rows(&mut self, name: &str, pieces: &[String]) -> Result<()> {
        let Some(whole) = self.entries.remove(name) else {
            return Err(self.missing(name));
        };
        let rows = whole.shape.first().copied().unwrap_or(0) / pieces.len().max(1);
        for (number, piece) in pieces.iter().enumerate() {
            let part = whole.rows(number * rows, rows);
            let (Some(part), true) = (part, rows * pieces.len() == whole.shape.first().copied().unwrap_or(0)) else {
                return Err(Error::file(
                    &self.path,
                    format!("tensor `{name}` of shape {:?} does not split into {} parts", whole.shape, pieces.len()),
                ));
            };
            if self.entries.insert(piece.clone(), part).is_some() {
                return Err(Error::file(&self.path, format!("has both `{name}` and `{piece}`")));
            }
        }
        Ok(())
    }

    /// Drops trailing axes of length 1 from the third on, where `which` says so: `[c, c, 1, 1]` becomes `[c, c]`.
    pub(crate) fn drop_unit_axes(&mut self, which: impl Fn(&str) -> bool) {
        for (_, entry) in self.entries.iter_mut().filter(|(name, _)| which(name)) {
            entry.drop_unit_axes();
        }
    }

    /// What nets are built from. Its errors name the file, the tensor, and what was found instead.
    pub fn var_builder(self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self), dtype, device.clone())
    }

    /// The same for nets all of whose matrices lie in [`Linear`](crate::ops::Linear) and [`Conv2d`](crate::ops::Conv2d): where such a
    /// net computes in single precision on the CPU, matrices that the file has in half precision stay so, for half the memory. The
    /// layers widen them when they are used.
    pub fn lean_var_builder(self, dtype: DType, device: &Device) -> VarBuilder<'static> {
        if dtype != DType::F32 || !device.is_cpu() {
            return self.var_builder(dtype, device);
        }
        VarBuilder::from_backend(Box::new(Lean(self)), dtype, device.clone())
    }

    fn with(&self, entries: BTreeMap<String, Entry>) -> Self {
        Self { entries, ..self.clone() }
    }

    /// The entry of a tensor that must have a shape.
    fn expected(&self, name: &str, shape: &[usize]) -> Result<&Entry> {
        let entry = self.entries.get(name).ok_or_else(|| self.missing(name))?;
        if entry.shape != shape {
            let reason =
                format!("tensor `{name}` has shape {:?}, the model's configuration asks for {shape:?}", entry.shape);
            return Err(Error::file(&self.path, reason));
        }
        Ok(entry)
    }

    fn missing(&self, name: &str) -> Error {
        let reason = match self.nearest(name) {
            Some(near) => format!("has no tensor `{name}`; the nearest is `{near}`"),
            None => format!("has no tensor `{name}`"),
        };
        Error::file(&self.path, reason)
    }

    /// The name most like the one that is not there: the longest common start and end.
    fn nearest(&self, wanted: &str) -> Option<&str> {
        let common = |name: &str| {
            let start = name.bytes().zip(wanted.bytes()).take_while(|(a, b)| a == b).count();
            let rest = name.len().min(wanted.len()) - start;
            start + name.bytes().rev().zip(wanted.bytes().rev()).take(rest).take_while(|(a, b)| a == b).count()
        };
        self.names()
            .map(|name| (common(name), name))
            .max_by_key(|&(score, name)| (score, std::cmp::Reverse(name.len())))
            .filter(|&(score, _)| score * 2 >= wanted.len())
            .map(|(_, name)| name)
    }
}

/// Says what a file is that is surely none of ours.
fn foreign(start: &[u8]) -> Option<&'static str> {
    Some(match start {
        [b'G', b'G', b'U', b'F', ..] => "is a GGUF file, which is not supported",
        [0x89, b'P', b'N', b'G', ..] | [0xff, 0xd8, 0xff, ..] => "is a picture, not weights",
        [b'<', ..] => "is a web page, not weights; the download link led to a page and not to the file",
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' ', ..] => {
            "is a Git LFS pointer, not the weights themselves; fetch the file with `git lfs pull`"
        }
        [0x1f, 0x8b, ..] => "is a gzip archive, not weights; unpack it first",
        _ => return None,
    })
}

fn to_candle(error: Error) -> candle_core::Error {
    match error {
        Error::Tensor(inner) => inner,
        other => candle_core::Error::Msg(other.to_string()),
    }
}

impl SimpleBackend for Checkpoint {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.expected(name, shape.dims()).and_then(|entry| self.read(name, entry, dtype, device)).map_err(to_candle)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.tensor(name, dtype, device).map_err(to_candle)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.contains(name)
    }
}

/// A checkpoint whose matrices in half precision stay so.
struct Lean(Checkpoint);

impl SimpleBackend for Lean {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let read = |entry: &Entry| {
            let own = entry.element.dtype();
            let half = dtype == DType::F32 && matches!(own, DType::F16 | DType::BF16);
            // A sum would lose by being rounded to the file's precision.
            let stays = half && shape.rank() > 1 && !self.0.changes.contains_key(name);
            self.0.read(name, entry, if stays { own } else { dtype }, device)
        };
        self.0.expected(name, shape.dims()).and_then(read).map_err(to_candle)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.0.get_unchecked(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}
