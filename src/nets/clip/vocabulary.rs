//! CLIP's byte-pair vocabulary: the one that is built in, or the one in a model's `tokenizer` folder with its special
//! tokens. It only reads files; cutting text into tokens is `tokenizer`'s business.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// The merges of OpenAI's CLIP, the most frequent pair first; see weights/clip-bpe/README.md.
const CLIP_MERGES: &str = include_str!("../../../weights/clip-bpe/merges.txt");
/// Marks the end of a word.
pub(super) const WORD_END: &str = "</w>";
const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";
/// CLIP's own files are 1 to 4 MB.
const MAX_FILE: u64 = 64 << 20;
/// What CLIP's text encoders were trained with, where the folder does not say.
const MAX_LENGTH: usize = 77;
/// A longer `model_max_length` is transformers' way of writing "not set" (1e30).
const MOST_LENGTH: f64 = 1e6;

/// A vocabulary with everything that belongs to it.
#[derive(Debug)]
pub(super) struct Vocabulary {
    /// Token to id.
    pub(super) ids: HashMap<String, u32>,
    /// Pairs to join, the first ones first.
    pub(super) merges: Vec<(String, String)>,
    /// Tokens that are cut out of the text before anything else, in the order transformers adds them.
    pub(super) added: Vec<AddedToken>,
    pub(super) start: String,
    pub(super) end: String,
    pub(super) unknown: String,
    pub(super) pad: String,
    /// Ids per prompt.
    pub(super) max_length: usize,
}

/// A token that stands for itself in the text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct AddedToken {
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    /// Looked for in the normalised (lower case) text instead of the raw one.
    #[serde(default)]
    pub(super) normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

/// A special token as the JSON files write it: its text alone, or with how it is looked for.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Special {
    Text(String),
    Token(AddedToken),
}

impl Special {
    fn content(&self) -> &str {
        match self {
            Self::Text(content) => content,
            Self::Token(token) => &token.content,
        }
    }

    fn token(&self) -> AddedToken {
        match self {
            Self::Text(content) => AddedToken {
                content: content.clone(),
                single_word: false,
                lstrip: false,
                rstrip: false,
                normalized: false,
                special: true,
            },
            Self::Token(token) => AddedToken { special: true, ..token.clone() },
        }
    }
}

/// The special tokens that may be named in `tokenizer_config.json` and `special_tokens_map.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Specials {
    bos_token: Option<Special>,
    eos_token: Option<Special>,
    unk_token: Option<Special>,
    sep_token: Option<Special>,
    pad_token: Option<Special>,
    cls_token: Option<Special>,
    mask_token: Option<Special>,
}

impl Specials {
    /// In transformers' order, which decides between two that name the same token.
    fn each(&mut self) -> [&mut Option<Special>; 7] {
        [
            &mut self.bos_token,
            &mut self.eos_token,
            &mut self.unk_token,
            &mut self.sep_token,
            &mut self.pad_token,
            &mut self.cls_token,
            &mut self.mask_token,
        ]
    }

    fn overlay(&mut self, mut over: Self) {
        for (token, over) in self.each().into_iter().zip(over.each()) {
            if over.is_some() {
                *token = over.take();
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
    model_max_length: Option<f64>,
    added_tokens_decoder: Option<BTreeMap<u32, AddedToken>>,
    #[serde(flatten)]
    specials: Specials,
}

#[derive(Deserialize)]
struct TokenizerFile {
    model: ModelSection,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct ModelSection {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

impl Vocabulary {
    /// The built-in vocabulary of CLIP: 256 bytes, 256 bytes that end a word, one token per merge, two specials.
    pub(super) fn clip() -> Result<Self> {
        let merges = parse_merges(Path::new("merges.txt"), CLIP_MERGES)?;
        let bytes = byte_letters();
        let ids = bytes
            .iter()
            .map(char::to_string)
            .chain(bytes.iter().map(|letter| format!("{letter}{WORD_END}")))
            .chain(merges.iter().map(|(left, right)| format!("{left}{right}")))
            .chain([START.to_owned(), END.to_owned()])
            .zip(0..)
            .collect();
        Ok(Self::assemble(ids, merges, Vec::new(), Specials::default(), MAX_LENGTH))
    }

    /// Reads a `tokenizer` folder as transformers' `CLIPTokenizer.from_pretrained` does: `tokenizer.json` where there is
    /// one, `vocab.json` and `merges.txt` otherwise, special tokens from `special_tokens_map.json` and
    /// `tokenizer_config.json`.
    pub(super) fn from_folder(folder: &Path) -> Result<Self> {
        let whole = folder.join("tokenizer.json");
        let (ids, merges, listed) = if whole.is_file() {
            let TokenizerFile { model, added_tokens } = read_json(&whole)?;
            let merges = model
                .merges
                .into_iter()
                .map(|merge| match merge {
                    Merge::Pair(left, right) => Ok((left, right)),
                    Merge::Line(line) => parse_merge(&whole, &line),
                })
                .collect::<Result<_>>()?;
            (model.vocab, merges, added_tokens)
        } else {
            let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
            if !vocab.is_file() {
                return Err(Error::file(folder, "holds neither tokenizer.json nor vocab.json and merges.txt")
                    .with_hint("a model's tokenizer folder holds one of them; download it again"));
            }
            (read_json(&vocab)?, parse_merges(&merges, &read_text(&merges)?)?, Vec::new())
        };
        let config_path = folder.join("tokenizer_config.json");
        let config: ConfigFile = if config_path.is_file() { read_json(&config_path)? } else { ConfigFile::default() };
        let mut specials = config.specials;
        let mut added = listed;
        // A config that lists its added tokens is complete: transformers then reads none of the other files for them.
        if let Some(tokens) = config.added_tokens_decoder {
            added = tokens.into_values().collect();
        } else {
            let map_path = folder.join("special_tokens_map.json");
            if map_path.is_file() {
                specials.overlay(read_json(&map_path)?);
            }
        }
        let max_length = match config.model_max_length {
            Some(length) if (2.0..=MOST_LENGTH).contains(&length) => length as usize,
            Some(length) if length < 2.0 => {
                return Err(Error::file(
                    &config_path,
                    format!("model_max_length is {length}; the start and the end of a prompt alone take 2"),
                ));
            }
            _ => MAX_LENGTH,
        };
        let vocabulary = Self::assemble(ids, merges, added, specials, max_length);
        vocabulary.check(folder)?;
        Ok(vocabulary)
    }

    fn assemble(
        ids: HashMap<String, u32>,
        merges: Vec<(String, String)>,
        listed: Vec<AddedToken>,
        mut specials: Specials,
        max_length: usize,
    ) -> Self {
        let text = |content: &str| Some(Special::Text(content.to_owned()));
        specials.bos_token = specials.bos_token.or_else(|| text(START));
        specials.eos_token = specials.eos_token.or_else(|| text(END));
        specials.unk_token = specials.unk_token.or_else(|| text(END));
        specials.pad_token = specials.pad_token.or_else(|| text(END));
        let name = |special: &Option<Special>| special.as_ref().map_or_else(String::new, |s| s.content().to_owned());
        let start = name(&specials.bos_token);
        let end = name(&specials.eos_token);
        let unknown = name(&specials.unk_token);
        let pad = name(&specials.pad_token);
        let mut added = listed.clone();
        for special in specials.each().into_iter().flatten() {
            // A listed token's own description wins over how the name is written.
            let described = listed.iter().rev().find(|token| token.content == special.content());
            added
                .push(described.map_or_else(|| special.token(), |token| AddedToken { special: true, ..token.clone() }));
        }
        Self { ids, merges, added, start, end, unknown, pad, max_length }
    }

    // The tokenizers crate takes the parts on trust: a merge longer than every token makes it panic.
    fn check(&self, folder: &Path) -> Result<()> {
        for (left, right) in &self.merges {
            let joined = format!("{left}{right}");
            if let Some(missing) = [left, right, &joined].into_iter().find(|token| !self.ids.contains_key(*token)) {
                return Err(Error::file(
                    folder,
                    format!("the merge \"{left} {right}\" needs the token \"{missing}\", which the vocabulary lacks"),
                )
                .with_hint("vocab.json and merges.txt do not belong together; download the tokenizer again"));
            }
        }
        for token in [&self.start, &self.end, &self.unknown, &self.pad] {
            if !self.ids.contains_key(token) && !self.added.iter().any(|added| added.content == *token) {
                return Err(Error::file(folder, format!("the vocabulary lacks the special token \"{token}\"")));
            }
        }
        Ok(())
    }
}

/// The letter that stands for each byte, in the order of the vocabulary: printable characters stand for themselves and
/// come first, the other bytes follow with letters from U+0100 on (GPT-2's `bytes_to_unicode`).
fn byte_letters() -> Vec<char> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let own = (0..=u8::MAX).filter(|&byte| printable(byte)).map(char::from);
    let others = (0..=u8::MAX).filter(|&byte| !printable(byte)).count() as u32;
    own.chain((0..others).filter_map(|index| char::from_u32(0x100 + index))).collect()
}

fn parse_merges(path: &Path, text: &str) -> Result<Vec<(String, String)>> {
    text.lines()
        .filter(|line| !line.starts_with("#version") && !line.is_empty())
        .map(|line| parse_merge(path, line))
        .collect()
}

fn parse_merge(path: &Path, line: &str) -> Result<(String, String)> {
    match line.split_once(' ') {
        Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
            Ok((left.to_owned(), right.to_owned()))
        }
        _ => {
            let shown: String = line.chars().take(40).collect();
            Err(Error::file(path, format!("the merge \"{shown}\" is not two tokens with a space between")))
        }
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|error| Error::file(path, format!("not the JSON expected: {error}")))
}

fn read_text(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    let mut text = String::new();
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| Error::io(path, error))?;
    if read as u64 > MAX_FILE {
        return Err(Error::file(path, format!("larger than {} MiB, no tokenizer is", MAX_FILE >> 20)));
    }
    Ok(text)
}
