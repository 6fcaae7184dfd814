//! Holds the architecture: who may import whom, how long a file may be, what it may be called, where `unsafe` may stand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A module and the modules it may import; every module may import itself and those in [`ANYWHERE`].
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("ops", &[]),
    ("image", &["ops"]),
    ("nets", &["ops"]),
    ("diffusion", &[]),
    ("control", &["image", "ops", "nets"]),
    ("style", &["ops", "image", "nets"]),
    ("weights", &[]),
    ("metrics", &["image", "ops", "nets", "style", "control"]),
    ("pipeline", &["ops", "image", "nets", "diffusion", "control", "style", "weights", "metrics"]),
    ("train", &["style", "nets", "image", "ops", "weights"]),
    ("report", &["metrics", "image"]),
    ("error", &[]),
    ("progress", &[]),
    ("rng", &[]),
    ("device", &[]),
];
const ANYWHERE: &[&str] = &["error", "Error", "Result", "progress", "rng", "device"];

/// Names that say nothing.
const NAMELESS: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager", "misc"];

const MAX_LINES: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources() -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.insert(path.strip_prefix(root()).unwrap().to_path_buf(), std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// The top-level module a file belongs to.
fn module(path: &Path) -> String {
    let first = path.iter().next().unwrap().to_str().unwrap();
    first.strip_suffix(".rs").unwrap_or(first).to_owned()
}

/// The code of a file: without comments, and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// What follows `crate::` everywhere in a file: the first segment of each path.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let rest = rest.trim_start();
        let names = match rest.strip_prefix('{') {
            Some(group) => top_level(group),
            None => vec![rest.to_owned()],
        };
        for name in names {
            let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                found.push(name);
            }
        }
    }
    found
}

/// The items of a `{...}` group, nested groups left together.
fn top_level(group: &str) -> Vec<String> {
    let (mut items, mut item, mut depth) = (Vec::new(), String::new(), 0);
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => items.push(std::mem::take(&mut item)),
            _ => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                item.push(c);
            }
        }
    }
    items.push(item);
    items
}

#[test]
fn modules_import_only_what_the_design_lets_them() {
    let table: BTreeMap<_, _> = MAY_IMPORT.iter().copied().collect();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let own = module(&path);
        if ["main", "lib", "cli"].contains(&own.as_str()) {
            continue;
        }
        let allowed = table.get(own.as_str()).unwrap_or_else(|| panic!("{own} is not in the table of modules"));
        for import in imports(&code(&text)) {
            let fine = import == own || ANYWHERE.contains(&import.as_str()) || allowed.contains(&import.as_str());
            if !fine {
                wrong.push(format!("{}: {own} imports {import}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_are_found_however_they_are_written() {
    let code = code(
        "use crate::{Error, image::{read, write}};\nlet x = crate::nets::Y; // crate::train\npub(crate) fn f() {}\n",
    );
    assert_eq!(imports(&code), ["Error", "image", "nets"]);
}

#[test]
fn files_are_short_and_say_what_they_hold() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            wrong.push(format!("{} has {lines} lines; at most {MAX_LINES}", path.display()));
        }
        for part in &path {
            let name = part.to_str().unwrap().trim_end_matches(".rs");
            if name.split('_').any(|word| NAMELESS.contains(&word)) {
                wrong.push(format!("{}: `{name}` says nothing about what is in it", path.display()));
            }
        }
        if !text.starts_with("//!") && !text.starts_with("#![doc") {
            wrong.push(format!("{} does not begin by saying what it is for", path.display()));
        }
    }
    let main = root().join("main.rs");
    assert!(std::fs::read_to_string(main).unwrap().lines().count() < 60, "main.rs does more than parse and run");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_stands_only_where_it_must_and_says_why() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let lines: Vec<_> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let line = line.split("//").next().unwrap();
            let keyword = line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
            if !keyword {
                continue;
            }
            let maps = module(&path) == "weights" && line.contains("Mmap");
            if module(&path) != "ops" && !maps {
                wrong.push(format!("{}:{}: unsafe outside ops", path.display(), index + 1));
            }
            let above = &lines[index.saturating_sub(12)..index];
            if !above.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
                wrong.push(format!("{}:{}: unsafe without SAFETY:", path.display(), index + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
