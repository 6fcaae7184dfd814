//! Every picture of a comparison: what it takes, and where it goes.

use super::methods::Contestant;
use crate::cli::Printer;
use crate::cli::stylize::line::Line;
use impasto::pipeline::recipe::Input;
use impasto::pipeline::stylize::{Method, Recipe};
use impasto::report::{Anchor, Source, Variant};
use impasto::{Error, Result};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A comparison, before anything is painted.
pub(super) struct Plan {
    /// The photos.
    pub(super) contents: Vec<Source>,
    /// The paintings.
    pub(super) styles: Vec<Source>,
    /// The anchors, then every method with every setting.
    pub(super) variants: Vec<Variant>,
    /// The work, in the order that loads nets and learns styles least often.
    pub(super) groups: Vec<Group>,
}

/// The pictures of one variant in one style.
pub(super) struct Group {
    /// The variant, by its place.
    pub(super) variant: usize,
    /// The style, by its place.
    pub(super) style: usize,
    /// How they are painted.
    pub(super) line: Line,
    /// Whether the net is this style's own, so that the next style takes another.
    pub(super) alone: bool,
    /// The words that were asked for, where the user gave some.
    pub(super) prompt: Option<String>,
    /// One job for each photo.
    pub(super) jobs: Vec<Job>,
}

/// One picture.
pub(super) struct Job {
    /// The photo, by its place.
    pub(super) content: usize,
    /// The picture's file, from the output folder, with `/` between its parts.
    pub(super) picture: String,
    /// Its recipe, but for its size; or why the photo cannot be read.
    pub(super) recipe: Result<Recipe>,
}

/// What holds for all methods.
pub(super) struct Common {
    /// The long side of pictures.
    pub(super) size: u32,
    /// The seed.
    pub(super) seed: u64,
    /// Where to compute.
    pub(super) device: String,
}

impl Plan {
    /// Crosses methods, photos and paintings. Reads every file once for its hash; opens no picture and no net.
    pub(super) fn new(
        contestants: &[Contestant],
        (contents, styles): (&[PathBuf], &[PathBuf]),
        common: &Common,
        printer: &Printer,
    ) -> anyhow::Result<Self> {
        let (contents, inputs) = sources(contents);
        let (styles, _) = sources(styles);
        let (content_names, style_names) = (file_names(&contents), file_names(&styles));
        let anchor = |anchor: Anchor, method: &str| Variant {
            method: method.to_owned(),
            settings: Map::new(),
            anchor: Some(anchor),
            load_seconds: None,
            sets: Vec::new(),
        };
        let mut variants = vec![anchor(Anchor::Identity, "identity"), anchor(Anchor::Copy, "copy")];
        let (mut groups, mut folders) = (Vec::new(), HashSet::new());
        for one in contestants {
            for entry in &one.entries {
                let variant = Variant {
                    method: one.name.clone(),
                    settings: entry.varied.clone(),
                    anchor: None,
                    load_seconds: None,
                    sets: Vec::new(),
                };
                let folder = folder(&variant.name(), &mut folders);
                variants.push(variant);
                let mut located = false;
                for (style, source) in styles.iter().enumerate() {
                    let Some(words) = one.words(entry, (style, &source.file)) else { continue };
                    let line = Line::read(words.into_iter().chain(common.words()))?;
                    if !located {
                        line.locate(printer)?;
                        located = true;
                    }
                    let recipe = line.recipe()?;
                    let job = |(content, input): (usize, &Result<Input>)| Job {
                        content,
                        picture: format!("pictures/{folder}/{}--{}.png", content_names[content], style_names[style]),
                        recipe: match input {
                            Ok(input) => Ok(Recipe { content: input.clone(), ..recipe.clone() }),
                            Err(error) => Err(Error::file(&contents[content].file, reason(error))),
                        },
                    };
                    groups.push(Group {
                        variant: variants.len() - 1,
                        style,
                        alone: one.kind == Method::Fast,
                        prompt: Contestant::given(entry, "prompt"),
                        jobs: inputs.iter().enumerate().map(job).collect(),
                        line,
                    });
                }
            }
        }
        Ok(Self { contents, styles, variants, groups })
    }

    /// How many pictures there are.
    pub(super) fn len(&self) -> usize {
        self.groups.iter().map(|group| group.jobs.len()).sum()
    }
}

impl Common {
    /// As flags of `impasto stylize`. Its photo and its output are not used.
    fn words(&self) -> Vec<OsString> {
        let size = format!("--size={}", self.size);
        let (seed, device) = (format!("--seed={}", self.seed), format!("--device={}", self.device));
        [size, seed, device, "--output=unused.png".to_owned(), "unused".to_owned()].map(OsString::from).to_vec()
    }
}

/// The reason of an error without the path in front, which is named anyway.
fn reason(error: &Error) -> String {
    match error {
        Error::Io { reason, .. } => reason.to_string(),
        Error::File { reason, .. } => reason.clone(),
        other => other.to_string(),
    }
}

/// The pictures that go in, by names that tell them apart.
fn sources(paths: &[PathBuf]) -> (Vec<Source>, Vec<Result<Input>>) {
    let inputs: Vec<_> = paths.iter().map(|path| Input::of(path)).collect();
    let source = |(path, input): (&PathBuf, &Result<Input>)| Source {
        name: name_among(path, paths),
        path: path.to_string_lossy().into_owned(),
        sha256: input.as_ref().map_or_else(|_| String::new(), |input| input.sha256.clone()),
        file: path.clone(),
    };
    (paths.iter().zip(&inputs).map(source).collect(), inputs)
}

/// What a picture is called: its file's name, with the ending only where another has the same without it.
pub(super) fn name_among(path: &Path, all: &[PathBuf]) -> String {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let count = |of: fn(&Path) -> Option<&std::ffi::OsStr>| all.iter().filter(|other| of(other) == of(path)).count();
    if count(Path::file_stem) <= 1 {
        text(path.file_stem())
    } else if count(Path::file_name) <= 1 {
        text(path.file_name())
    } else {
        path.to_string_lossy().into_owned()
    }
}

/// A name for files, of plain letters. Names that had others in them, or that are like another, end in a part of the hash of what
/// they stand for, so that a picture's file stays the same when others come and go.
fn file_names(sources: &[Source]) -> Vec<String> {
    let plain: Vec<String> = sources.iter().map(|source| plain(&source.name)).collect();
    let named = |(source, own): (&Source, &String)| {
        let alike = plain.iter().filter(|other| other.eq_ignore_ascii_case(own)).count();
        if *own == source.name && alike == 1 {
            return own.clone();
        }
        let hash = hash_of(&format!("{} {}", source.path, source.sha256));
        format!("{own}-{}", &hash[..8])
    };
    sources.iter().zip(&plain).map(named).collect()
}

/// The folder of a variant.
fn folder(name: &str, taken: &mut HashSet<String>) -> String {
    let own = plain(name);
    let lossy = name.chars().any(|letter| !(letter.is_ascii_alphanumeric() || "-_.:@ =".contains(letter)));
    let own = if lossy || taken.contains(&own.to_lowercase()) { format!("{own}-{}", &hash_of(name)[..8]) } else { own };
    taken.insert(own.to_lowercase());
    own
}

fn plain(name: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '-' };
    let plain: String = name.chars().map(letter).take(60).collect();
    let plain = plain.trim_matches(['.', '-']).to_owned();
    if plain.is_empty() { "picture".to_owned() } else { plain }
}

/// SHA-256 in hex.
pub(super) fn hash_of(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What of a recipe decides on the picture: everything but where its files lie, and its size, which follows.
pub(super) fn essence(recipe: &Recipe) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                if map.contains_key("sha256") {
                    map.remove("path");
                }
                map.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(Recipe { size: (0, 0), ..recipe.clone() }).unwrap_or_default();
    strip(&mut value);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, sha256: &str) -> Source {
        Source { name: name.into(), path: name.into(), sha256: sha256.into(), file: name.into() }
    }

    #[test]
    fn files_have_plain_names_that_differ() {
        let names = ["cat", "</script>", "a/b", "雪", "CAT", "", &"x".repeat(300)];
        let files = file_names(&names.map(|name| source(name, "ab")));
        let folded: HashSet<_> = files.iter().map(|name| name.to_lowercase()).collect();
        assert_eq!(folded.len(), names.len());
        for name in &files {
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)), "{name}");
            assert!(!name.is_empty() && name.len() < 80, "{name}");
        }
        assert_eq!(file_names(&[source("cat", "ab")]), ["cat"]);
        let mut taken = HashSet::new();
        assert_eq!(folder("adain strength=0.5", &mut taken), "adain-strength-0.5");
        assert_ne!(folder("adain strength 0.5", &mut taken), "adain-strength-0.5");
        assert_ne!(folder("é", &mut taken), folder("è", &mut taken));
    }

    #[test]
    fn names_are_as_short_as_tells_them_apart() {
        let paths = ["a/x.png", "a/x.jpg", "b/y.png", "c/z.png", "d/z.png"].map(PathBuf::from);
        let names: Vec<_> = paths.iter().map(|path| name_among(path, &paths)).collect();
        assert_eq!(names, ["x.png", "x.jpg", "y", "c/z.png", "d/z.png"]);
    }
}
