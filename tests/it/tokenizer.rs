//! The tokenizer against transformers.

use std::path::Path;

use impasto::Error;
use impasto::nets::clip::{Tokenizer, Tokens};
use sha2::Digest;

#[derive(serde::Deserialize)]
struct Fixture {
    vocabulary_sha256: String,
    cases: std::collections::BTreeMap<String, Vec<Case>>,
}

#[derive(serde::Deserialize)]
struct Case {
    prompt: String,
    ids: Vec<u32>,
    cut: Option<String>,
}

fn fixture() -> Fixture {
    let text = std::fs::read_to_string(crate::fixture("tokenizer/prompts.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn folder(name: &str) -> std::path::PathBuf {
    crate::fixture("tokenizer").join(name)
}

#[test]
fn the_built_in_vocabulary_is_clips() {
    let tokenizer = Tokenizer::clip().unwrap();
    assert_eq!(tokenizer.vocab_size(), 49408);
    assert_eq!(tokenizer.max_length(), 77);
    let tokens: Vec<String> = (0..49408).map(|id| tokenizer.token(id).unwrap()).collect();
    assert_eq!(tokenizer.token(49408), None);
    let digest = sha2::Sha256::digest(tokens.join("\n"));
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, fixture().vocabulary_sha256);
}

#[test]
fn ids_equal_transformers() {
    for (name, cases) in fixture().cases {
        let tokenizer =
            if name == "clip" { Tokenizer::clip().unwrap() } else { Tokenizer::from_folder(folder(&name)).unwrap() };
        assert!(!cases.is_empty());
        for Case { prompt, ids, cut } in cases {
            let tokens = tokenizer.encode(&prompt).unwrap();
            assert_eq!(tokens, Tokens { ids, cut }, "{name}: {prompt:?}");
        }
    }
}

#[test]
fn no_text_is_too_odd() {
    let tokenizer = Tokenizer::clip().unwrap();
    let letters: String = (0..0x11_0000).step_by(97).filter_map(char::from_u32).collect();
    let texts = [
        "\0".repeat(1 << 10),
        "\u{202e}\u{200f}\u{feff}".to_owned(),
        "<|".repeat(500),
        "\u{301}".repeat(5000),
        letters,
    ];
    for text in texts {
        let tokens = tokenizer.encode(&text).unwrap();
        assert_eq!(tokens.ids.len(), 77);
    }
}

#[test]
fn a_megabyte_is_cut_in_time() {
    let tokenizer = Tokenizer::clip().unwrap();
    for text in ["paint ".repeat(170_000), "x".repeat(1 << 20), "\u{1f3a8}".repeat(1 << 18), " ".repeat(1 << 20)] {
        let start = std::time::Instant::now();
        let tokens = tokenizer.encode(&text).unwrap();
        assert_eq!(tokens.ids.len(), 77);
        let seconds = start.elapsed().as_secs_f64();
        eprintln!("{} bytes in {seconds:.2} s", text.len());
        assert!(seconds < 30.0, "{} bytes took {seconds:.1} s", text.len());
    }
}

/// Ids far beyond any text encoder are the text encoder's to refuse.
#[test]
fn ids_may_be_any_number() {
    let scratch = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt", "special_tokens_map.json"] {
        std::fs::copy(folder("sd15").join(name), scratch.path().join(name)).unwrap();
    }
    let path = scratch.path().join("vocab.json");
    let mut vocabulary: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    vocabulary["<|endoftext|>"] = u32::MAX.into();
    vocabulary["!"] = vocabulary["#"].clone();
    std::fs::write(&path, vocabulary.to_string()).unwrap();
    let tokenizer = Tokenizer::from_folder(scratch.path()).unwrap();
    let tokens = tokenizer.encode("a # b! <|endoftext|> <sks>").unwrap();
    assert_eq!(tokens.ids[76], u32::MAX);
    assert_eq!(tokens.ids.len(), 77);
}

fn refused(write: impl FnOnce(&Path)) -> String {
    let scratch = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"] {
        std::fs::copy(folder("sd15").join(name), scratch.path().join(name)).unwrap();
    }
    write(scratch.path());
    let error = Tokenizer::from_folder(scratch.path()).unwrap_err();
    assert!(matches!(error, Error::File { .. } | Error::Io { .. }), "{error}");
    error.to_string()
}

#[test]
fn broken_folders_are_refused() {
    let write =
        |name: &'static str, text: &'static str| move |folder: &Path| std::fs::write(folder.join(name), text).unwrap();
    let cases = [
        (refused(|folder| std::fs::remove_file(folder.join("vocab.json")).unwrap()), "vocab.json"),
        (refused(|folder| std::fs::remove_file(folder.join("merges.txt")).unwrap()), "merges.txt"),
        (refused(write("vocab.json", "{\"a\": -1}")), "vocab.json"),
        (refused(write("vocab.json", "{\"a\": 0}")), "lacks"),
        (refused(write("merges.txt", "i n\nin\n")), "\"in\""),
        (refused(write("merges.txt", "i n\nz zz\n")), "\"zz\""),
        (refused(write("merges.txt", "i n\ni n extra\n")), "extra"),
        (refused(write("merges.txt", "i \n")), "\"i \""),
        (refused(write("tokenizer_config.json", "[]")), "tokenizer_config.json"),
        (refused(write("tokenizer_config.json", "{\"model_max_length\": 1}")), "model_max_length"),
        (refused(write("tokenizer_config.json", "{\"model_max_length\": -77}")), "model_max_length"),
        (refused(write("special_tokens_map.json", "{\"pad_token\": 3}")), "special_tokens_map.json"),
        (refused(write("special_tokens_map.json", "{\"pad_token\": \"\"}")), "special token \"\""),
        (refused(write("tokenizer.json", "{\"model\": {\"type\": \"Unigram\", \"vocab\": []}}")), "tokenizer.json"),
        (refused(write("tokenizer.json", "{\"model\": {\"vocab\": {}, \"merges\": [\"a b\"]}}")), "lacks"),
    ];
    for (error, part) in cases {
        assert!(error.contains(part), "{error:?} should name {part:?}");
    }
}
