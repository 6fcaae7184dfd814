//! The keys of a job: the flags of `generate` and `stylize`, taken from the command line's own definition, so that names,
//! types, choices and explanations stand nowhere twice. What checks a job file and what the schema publishes is this list.

use crate::cli::{generate, stylize};
use clap::{ArgAction, FromArgMatches};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::any::TypeId;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What a job runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Command {
    /// `impasto generate`
    Generate,
    /// `impasto stylize`
    Stylize,
}

/// What a key's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// true or false
    Switch,
    /// A whole number from 0 up.
    Whole,
    /// A finite number.
    Number,
    /// Any text.
    Text,
    /// A file or folder, or a name that stands for one.
    Path,
    /// One of these words.
    Choice(Vec<String>),
}

/// One key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// The flag, without its dashes.
    pub(super) name: String,
    /// What its value is.
    pub(super) kind: Kind,
    /// Whether the flag may be given more than once: a list then.
    pub(super) many: bool,
    /// What the flag's help says.
    pub(super) help: String,
}

/// The settings of one picture, by key.
pub(super) type Values = BTreeMap<String, Value>;

/// The photo of a `stylize` job, which its command line takes without a flag.
pub(super) const CONTENT: &str = "content";
/// Keys whose texts may hold wildcards.
pub(super) const WORDED: [&str; 2] = ["prompt", "negative"];
/// Keys that stand for pictures, so that a folder given for an axis means the pictures in it.
pub(super) const PICTURES: [&str; 4] = [CONTENT, "style", "structure", "init"];

/// Flags that are no keys, and what a job file has instead.
const LEFT_OUT: &[(&str, &str)] = &[
    ("output", "pictures are named by `file`, in the folder of the top-level `output`"),
    ("count", "several seeds are an axis: seed = \"0..8\" in [job.matrix]"),
    ("json", "it is a flag of `impasto batch`"),
    ("threads", "it is a flag of `impasto batch`"),
    ("format", "the ending of `file` says what a picture is written as"),
    ("skip-existing", "`impasto batch --resume` paints what is not there yet"),
    ("frames", "a video's frames belong together: `impasto stylize --frames` paints them"),
    ("smooth", "a video's frames belong together: `impasto stylize --frames` paints them"),
    ("list", "`impasto stylize --list` lists the styles"),
    ("control-map", "`impasto control` writes control maps"),
];

/// The arguments of one picture, as its command reads them.
pub(super) enum Args {
    /// Of `generate`.
    Generate(Box<generate::Args>),
    /// Of `stylize`.
    Stylize(Box<stylize::Args>),
}

/// The keys of both commands.
pub(super) struct Keys {
    commands: [(Command, clap::Command, Vec<Key>); 2],
}

impl Command {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Generate, Self::Stylize];

    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Stylize => "stylize",
        }
    }
}

impl Keys {
    /// Reads the command line's definition.
    pub(super) fn new() -> Self {
        let whole = crate::cli::command();
        let commands = Command::ALL.map(|command| {
            let clap = whole.find_subcommand(command.name()).cloned().unwrap_or_default();
            let mut keys: Vec<_> = clap.get_arguments().filter_map(Key::of).collect();
            keys.sort_by(|a, b| a.name.cmp(&b.name));
            (command, clap, keys)
        });
        Self { commands }
    }

    /// The keys of a command, by name.
    pub(super) fn of(&self, command: Command) -> &[Key] {
        let [generate, stylize] = &self.commands;
        if command == Command::Generate { &generate.2 } else { &stylize.2 }
    }

    /// A key of a command.
    pub(super) fn get(&self, command: Command, name: &str) -> Option<&Key> {
        self.of(command).iter().find(|key| key.name == name)
    }

    /// Why a name is no key of any of these commands; `structure` are names that are known beside the flags.
    pub(super) fn unknown(&self, commands: &[Command], name: &str, structure: &[&str]) -> (String, Option<String>) {
        let of: Vec<_> = commands.iter().map(|command| command.name()).collect();
        if let Some((_, instead)) = LEFT_OUT.iter().find(|(flag, _)| *flag == name) {
            return ("is no key of a job".to_owned(), Some((*instead).to_owned()));
        }
        let other = Command::ALL.into_iter().filter(|other| !commands.contains(other));
        if let Some(other) = other.into_iter().find(|other| self.get(*other, name).is_some()) {
            return (format!("is a key of {}, not of {}", other.name(), of.join(" or ")), None);
        }
        let flags = commands.iter().flat_map(|command| self.of(*command)).map(|key| key.name.as_str());
        let hint =
            nearest(name, flags.chain(structure.iter().copied())).map(|known| format!("the nearest is `{known}`"));
        let all = || "`impasto batch --schema` lists the keys".to_owned();
        (format!("is no key of {}", of.join(" or ")), Some(hint.unwrap_or_else(all)))
    }

    /// Reads the settings of a picture as its command reads its flags, writing to `output`.
    pub(super) fn args(
        &mut self,
        command: Command,
        values: &Values,
        device: Option<&str>,
        output: &Path,
    ) -> Result<Args, clap::Error> {
        let mut line = vec![OsString::from(command.name())];
        let device = device.map(|device| ("device".to_owned(), Value::from(device)));
        let own = values.iter().filter(|(name, _)| device.is_none() || *name != "device");
        for (name, value) in own.chain(device.as_ref().map(|(name, value)| (name, value))) {
            for value in if let Value::Array(list) = value { list.as_slice() } else { std::slice::from_ref(value) } {
                match value {
                    _ if name == CONTENT => {}
                    Value::Bool(true) => line.push(format!("--{name}").into()),
                    Value::Bool(false) => {}
                    value => line.push(format!("--{name}={}", shown(value)).into()),
                }
            }
        }
        let mut flag = OsString::from("--output=");
        flag.push(output);
        line.push(flag);
        if let Some(content) = values.get(CONTENT) {
            line.extend(["--".into(), shown(content).into()]);
        }
        let [generate, stylize] = &mut self.commands;
        match command {
            Command::Generate => {
                let matches = generate.1.try_get_matches_from_mut(line)?;
                Ok(Args::Generate(Box::new(generate::Args::from_arg_matches(&matches)?)))
            }
            Command::Stylize => {
                let matches = stylize.1.try_get_matches_from_mut(line)?;
                Ok(Args::Stylize(Box::new(stylize::Args::from_arg_matches(&matches)?)))
            }
        }
    }
}

impl Key {
    fn of(arg: &clap::Arg) -> Option<Self> {
        let name = match arg.get_long() {
            Some(long) => long.to_owned(),
            None => CONTENT.to_owned(),
        };
        if LEFT_OUT.iter().any(|(flag, _)| *flag == name) {
            return None;
        }
        let value = arg.get_value_parser().type_id();
        let choices: Vec<_> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let whole = [TypeId::of::<u64>(), TypeId::of::<u32>(), TypeId::of::<u16>(), TypeId::of::<usize>()];
        let kind = if matches!(arg.get_action(), ArgAction::SetTrue) {
            Kind::Switch
        } else if !choices.is_empty() {
            Kind::Choice(choices)
        } else if whole.iter().any(|whole| value == *whole) {
            Kind::Whole
        } else if value == TypeId::of::<f64>() {
            Kind::Number
        } else if value == TypeId::of::<PathBuf>() {
            Kind::Path
        } else {
            Kind::Text
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let many = matches!(arg.get_action(), ArgAction::Append) && name != CONTENT;
        Some(Self { name, kind, many, help })
    }

    /// Checks one value, which is no list.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        let fits = match &self.kind {
            Kind::Switch => value.is_boolean(),
            Kind::Whole => value.is_u64(),
            Kind::Number => value.is_number(),
            Kind::Text | Kind::Path => value.is_string(),
            Kind::Choice(words) => value.as_str().is_some_and(|word| words.iter().any(|known| known == word)),
        };
        if fits { Ok(()) } else { Err(format!("{value} is not {}", self.kind.wanted())) }
    }

    /// A word of the choices that is near to one that is none.
    pub(super) fn nearest(&self, value: &Value) -> Option<String> {
        let Kind::Choice(words) = &self.kind else { return None };
        nearest(value.as_str()?, words.iter().map(String::as_str)).map(|word| format!("the nearest is \"{word}\""))
    }
}

impl Kind {
    fn wanted(&self) -> String {
        match self {
            Self::Switch => "true or false".to_owned(),
            Self::Whole => "a whole number from 0 up".to_owned(),
            Self::Number => "a number".to_owned(),
            Self::Text => "a text".to_owned(),
            Self::Path => "a path, which is a text".to_owned(),
            Self::Choice(words) => format!("one of \"{}\"", words.join("\", \"")),
        }
    }
}

/// A value as the command line has it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(shown).collect::<Vec<_>>().join("+"),
        other => other.to_string(),
    }
}

/// A value as a person calls it: a path by its last part, without ending and weight.
pub(super) fn called(kind: Option<&Kind>, value: &Value) -> String {
    match (kind, value) {
        (Some(Kind::Path), Value::String(path)) => {
            let path = match path.rsplit_once(':') {
                Some((path, weight)) if weight.parse::<f64>().is_ok() => path,
                _ => path,
            };
            Path::new(path).file_stem().map_or_else(|| path.to_owned(), |stem| stem.to_string_lossy().into_owned())
        }
        (kind, Value::Array(list)) => list.iter().map(|value| called(kind, value)).collect::<Vec<_>>().join("+"),
        (_, value) => shown(value),
    }
}

/// The known word that was most likely meant.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |known: &str| strsim::jaro_winkler(&word.to_lowercase(), known);
    let best = known.map(|known| (likeness(known), known)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.8).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_flags_of_the_commands() {
        let keys = Keys::new();
        let kind = |command, name: &str| keys.get(command, name).map(|key| key.kind.clone());
        assert_eq!(kind(Command::Generate, "steps"), Some(Kind::Whole));
        assert_eq!(kind(Command::Generate, "guidance"), Some(Kind::Number));
        assert_eq!(kind(Command::Generate, "prompt"), Some(Kind::Text));
        assert_eq!(kind(Command::Generate, "init"), Some(Kind::Path));
        assert!(matches!(kind(Command::Stylize, "init"), Some(Kind::Choice(_))));
        assert_eq!(kind(Command::Stylize, "raw-losses"), Some(Kind::Switch));
        assert_eq!(kind(Command::Stylize, "content"), Some(Kind::Path));
        assert_eq!(kind(Command::Stylize, "output"), None);
        assert!(keys.get(Command::Stylize, "style").unwrap().many);
        for (flag, _) in LEFT_OUT {
            let whole = crate::cli::command();
            let there = |command: Command| {
                whole.find_subcommand(command.name()).unwrap().get_arguments().any(|arg| arg.get_long() == Some(flag))
            };
            assert!(Command::ALL.into_iter().any(there), "--{flag} is no flag any more");
        }
    }

    #[test]
    fn the_nearest_key_is_told() {
        let keys = Keys::new();
        let told = |name| keys.unknown(&[Command::Stylize], name, &["matrix"]).1.unwrap();
        assert_eq!(told("strenght"), "the nearest is `strength`");
        assert_eq!(told("matrx"), "the nearest is `matrix`");
        assert!(told("zzzz").contains("--schema"));
        assert!(keys.unknown(&[Command::Stylize], "structure", &[]).0.contains("generate"));
    }
}
