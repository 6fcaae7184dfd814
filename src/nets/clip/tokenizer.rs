//! CLIP's tokenizer: a prompt to the ids the text encoder reads. Equal to transformers' `CLIPTokenizer` called as
//! diffusers calls it, padded and cut to `model_max_length`. Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909)
//! on lower case text. It knows no prompt syntax: weights in brackets are text here.

use std::path::Path;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, NFC, NormalizerWrapper, Replace};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::vocabulary::{Vocabulary, WORD_END};
use crate::error::{Error, Result};

/// What a word is: the specials, English clitics, letters, one digit, anything else that is not space.
const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// A prompt in the text encoder's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// As many ids as the text encoder takes: start, text, end, padding.
    pub ids: Vec<u32>,
    /// The end of the prompt that found no room, in the tokenizer's spelling; `None` when all of it fits.
    pub cut: Option<String>,
}

/// CLIP's tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    max_length: usize,
}

impl Tokenizer {
    /// The tokenizer in a model's `tokenizer` folder: `tokenizer.json`, or `vocab.json` with `merges.txt`; which token
    /// pads (SD 1.x: the end token, SD 2.x: `!`) and how long a prompt may be come from the folder too.
    ///
    /// # Errors
    /// When a file is missing, unreadable or does not fit the others.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        Self::build(Vocabulary::from_folder(folder)?).map_err(|error| Error::file(folder, error.to_string()))
    }

    /// The built-in tokenizer of OpenAI's CLIP, for checkpoints that come without one: 77 ids, padded with the end token.
    ///
    /// # Errors
    /// Never in a sound build.
    pub fn clip() -> Result<Self> {
        Self::build(Vocabulary::clip()?).map_err(|error| Error::usage("tokenizer", error.to_string()))
    }

    /// The built-in tokenizer as OpenCLIP's models (SD 2.x) use it: the same vocabulary, padded with token 0, `!`.
    ///
    /// # Errors
    /// Never in a sound build.
    pub fn open_clip() -> Result<Self> {
        Ok(Self { pad: 0, ..Self::clip()? })
    }

    fn build(vocabulary: Vocabulary) -> tokenizers::Result<Self> {
        let Vocabulary { ids, merges, added, start, end, unknown, pad, max_length } = vocabulary;
        let model = BPE::builder()
            .vocab_and_merges(ids.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
            .unk_token(unknown)
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix(WORD_END.to_owned())
            .build()?;
        let mut inner = tokenizers::Tokenizer::new(model);
        let spaces = Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
        inner.with_normalizer(Some(tokenizers::normalizers::Sequence::new(vec![
            NormalizerWrapper::NFC(NFC),
            NormalizerWrapper::Replace(spaces),
            NormalizerWrapper::Lowercase(Lowercase),
        ])))?;
        let words = Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)?;
        let bytes = ByteLevel::default().add_prefix_space(false);
        inner.with_pre_tokenizer(Some(PreTokenizers::new(vec![
            PreTokenizerWrapper::Split(words),
            PreTokenizerWrapper::ByteLevel(bytes),
        ])));
        inner.with_decoder(Some(bytes));
        inner.add_special_tokens(added.into_iter().map(|token| AddedToken {
            content: token.content,
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            normalized: token.normalized,
            special: token.special,
        }))?;
        let id = |token: &str| {
            inner.token_to_id(token).ok_or_else(|| format!("the vocabulary lacks the special token \"{token}\""))
        };
        let (start, end, pad) = (id(&start)?, id(&end)?, id(&pad)?);
        Ok(Self { inner, start, end, pad, max_length })
    }

    /// Cuts a prompt into exactly [`max_length`](Self::max_length) ids.
    ///
    /// # Errors
    /// When the tokenizer fails, which no text makes it do.
    pub fn encode(&self, prompt: &str) -> Result<Tokens> {
        let failed = |error: tokenizers::Error| Error::usage("prompt", error.to_string());
        let encoding = self.inner.encode_fast(prompt, false).map_err(failed)?;
        let text = encoding.get_ids();
        let room = self.max_length - 2;
        let (kept, removed) = text.split_at(text.len().min(room));
        let cut = (!removed.is_empty()).then(|| self.decode(removed)).transpose()?;
        let mut ids = Vec::with_capacity(self.max_length);
        ids.push(self.start);
        ids.extend_from_slice(kept);
        ids.push(self.end);
        ids.resize(self.max_length, self.pad);
        Ok(Tokens { ids, cut })
    }

    /// Ids back to text, in lower case and with a space after every word.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let text = self.inner.decode(ids, false).map_err(|error| Error::usage("prompt", error.to_string()))?;
        Ok(text.replace(WORD_END, " ").trim().to_owned())
    }

    /// The token with this id, as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The token that ends a prompt.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// How many tokens there are.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Ids per prompt.
    pub fn max_length(&self) -> usize {
        self.max_length
    }
}
