//! TensorFlow's variables dumped one by one, as deeplearn.js and ml5 publish them: a `manifest.json` that gives every name a
//! file and a shape, and beside it one file of raw little-endian floats per variable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::element::Element;
use super::entry::{Entry, Source};
use crate::error::{Error, Result};

/// The name of the file that lists the others.
pub(super) const MANIFEST: &str = "manifest.json";

/// More variables than this are no net that was dumped this way; each keeps a file open.
const MAX_VARIABLES: usize = 256;

#[derive(Deserialize)]
struct Variable {
    filename: String,
    shape: Vec<usize>,
}

/// Opened files and what lies in them.
type Opened = (Vec<Source>, BTreeMap<String, Entry>);

/// Opens the files that a manifest lists. None when the JSON is no such manifest.
pub(super) fn entries(manifest: &Path, json: &[u8]) -> Result<Option<Opened>> {
    let Ok(variables) = serde_json::from_slice::<BTreeMap<String, Variable>>(json) else {
        return Ok(None);
    };
    if variables.is_empty() || variables.len() > MAX_VARIABLES {
        return Err(Error::file(manifest, format!("lists {} variables", variables.len())));
    }
    let folder = manifest.parent().unwrap_or(Path::new("."));
    let (mut sources, mut entries, mut files) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    for (name, Variable { filename, shape }) in variables {
        // Only a plain file name: a manifest from the net must not make us open what lies elsewhere.
        let plain = Path::new(&filename).file_name().is_some_and(|base| base == filename.as_str());
        if !plain || filename.contains(['/', '\\', ':']) || !files.insert(filename.clone()) {
            return Err(Error::file(manifest, format!("`{filename}` is not a file beside it, or is named twice")));
        }
        let path = folder.join(&filename);
        let source = Source::open(&path)?;
        let described = format!("{shape:?}");
        let entry = Entry::dense(sources.len(), 0, Element::F32, shape).filter(|entry| entry.span() == source.len);
        let Some(entry) = entry else {
            let reason = format!("has {} bytes, which is not {described} floats as {MANIFEST} says", source.len);
            return Err(Error::file(path, reason).with_hint("fetch the whole folder again"));
        };
        sources.push(source);
        entries.insert(name, entry);
    }
    Ok(Some((sources, entries)))
}
