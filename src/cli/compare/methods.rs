//! `--methods`, `--set` and `--sweep`: which methods compete, with which settings.

use crate::cli::stylize::line::takes;
use impasto::pipeline::stylize::Method;
use impasto::{Error, Result};
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A method that competes, and what with.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Contestant {
    /// What it is called in the report.
    pub(super) name: String,
    /// Which kind of method it is.
    pub(super) kind: Method,
    net: Net,
    /// Its settings, one after the other.
    pub(super) entries: Vec<Entry>,
}

/// One setting of a method.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Entry {
    /// What was varied, by flag.
    pub(super) varied: Map<String, Value>,
    /// All flags that are given to it.
    flags: Vec<(String, String)>,
}

/// Which net a method paints with.
#[derive(Debug, Clone, PartialEq)]
enum Net {
    /// The method's own.
    Default,
    /// A file.
    File(PathBuf),
    /// A preset.
    Preset(String),
    /// A net for each of some paintings, by the painting's place.
    PerStyle(Vec<(usize, String)>),
}

/// Reads the three flags. `styles` are the names of the paintings: a net for one style competes on its own painting alone.
pub(super) fn parse(
    methods: &[String],
    set: &[String],
    sweeps: &[String],
    styles: &[String],
) -> Result<Vec<Contestant>> {
    let mut contestants: Vec<Contestant> = Vec::new();
    for text in methods {
        let next = contestant(text.trim(), styles)?;
        if contestants.iter().any(|known| known.name == next.name && known.net == next.net) {
            return Err(Error::usage("--methods", format!("{text} is there twice")));
        }
        contestants.push(next);
    }
    let mut contestants = name_apart(joined(contestants, styles));
    for text in set {
        let (whose, flag, value) = assignment("--set", text)?;
        let mut taken = false;
        for one in contestants.iter_mut().filter(|one| concerns(one, whose) && takes(one.kind, flag)) {
            taken = true;
            one.entries.iter_mut().for_each(|entry| entry.flags.push((flag.to_owned(), value.to_owned())));
        }
        check_taken("--set", (whose, flag), taken, &contestants)?;
    }
    let mut varied: Vec<(usize, String)> = Vec::new();
    for text in sweeps {
        let (whose, flag, values) = assignment("--sweep", text)?;
        let values: Vec<&str> = values.split(',').map(str::trim).collect();
        if let Some(twice) = values.iter().enumerate().find(|(at, value)| values[..*at].contains(value)) {
            return Err(Error::usage("--sweep", format!("{text}: {} is there twice", twice.1)));
        }
        let mut taken = false;
        for (place, one) in contestants.iter_mut().enumerate() {
            if !(concerns(one, whose) && takes(one.kind, flag)) {
                continue;
            }
            taken = true;
            if varied.contains(&(place, flag.to_owned())) {
                return Err(Error::usage("--sweep", format!("{flag} of {} is varied twice", one.name)));
            }
            varied.push((place, flag.to_owned()));
            let with = |entry: &Entry, text: &str| {
                let mut entry = entry.clone();
                entry.flags.retain(|(known, _)| known != flag);
                entry.flags.push((flag.to_owned(), text.to_owned()));
                entry.varied.insert(flag.to_owned(), value(text));
                entry
            };
            one.entries = one.entries.iter().flat_map(|entry| values.iter().map(|text| with(entry, text))).collect();
        }
        check_taken("--sweep", (whose, flag), taken, &contestants)?;
    }
    Ok(contestants)
}

impl Contestant {
    /// The words behind `impasto stylize` that paint in a style, where the method knows it.
    pub(super) fn words(&self, entry: &Entry, (place, style): (usize, &Path)) -> Option<Vec<OsString>> {
        let mut words: Vec<OsString> = vec!["--method".into(), self.kind.name().into()];
        let flag = |name: &str, value: &Path| {
            let mut word = OsString::from(format!("--{name}="));
            word.push(value);
            word
        };
        match &self.net {
            Net::Default => words.push(flag("style", style)),
            Net::File(net) => words.extend([flag("style", style), flag("net", net)]),
            Net::Preset(preset) => words.extend([flag("style", style), flag("preset", Path::new(preset))]),
            Net::PerStyle(nets) => {
                let (_, net) = nets.iter().find(|(of, _)| *of == place)?;
                words.push(flag("style", Path::new(net)));
            }
        }
        words.extend(entry.flags.iter().map(|(name, value)| flag(name, Path::new(value))));
        Some(words)
    }

    /// A flag's value, where the user gave one.
    pub(super) fn given(entry: &Entry, flag: &str) -> Option<String> {
        entry.flags.iter().rev().find(|(name, _)| name == flag).map(|(_, value)| value.clone())
    }
}

fn contestant(text: &str, styles: &[String]) -> Result<Contestant> {
    let wrong = |reason: String| Error::usage("--methods", reason);
    let end = text.find([':', '@']).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let kinds = <Method as clap::ValueEnum>::value_variants();
    let Some(kind) = kinds.iter().copied().find(|kind| kind.name() == word) else {
        let known = kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
        return Err(wrong(format!("`{word}` is no method")).with_hint(format!("there are {known}")));
    };
    let entries = vec![Entry::default()];
    let plain = |name: String, net: Net| Ok(Contestant { name, kind, net, entries: entries.clone() });
    match (kind, rest.chars().next(), rest.get(1..).unwrap_or_default()) {
        (Method::Fast, Some(':'), net) if !net.is_empty() => {
            let (net, style) = net.rsplit_once('=').unwrap_or((net, ""));
            let wanted = if style.is_empty() { stem(net) } else { style.to_owned() };
            let Some(place) = styles.iter().position(|name| alike(name, &wanted)) else {
                let reason = format!("fast:{net} paints one style, and none of the paintings is called {wanted}");
                return Err(wrong(reason).with_hint(format!("say which painting is its style: fast:{net}=PAINTING")));
            };
            plain(format!("fast:{}", stem(net)), Net::PerStyle(vec![(place, net.to_owned())]))
        }
        (Method::Fast, ..) => {
            Err(wrong(format!("{text} names no net")).with_hint("name it: fast:NAME or fast:FILE=PAINTING"))
        }
        (_, None, _) => plain(word.to_owned(), Net::Default),
        (Method::Adain, Some(':'), net) if !net.is_empty() => {
            plain(format!("adain:{}", stem(net)), Net::File(PathBuf::from(net)))
        }
        (Method::Diffusion, Some('@'), preset) if !preset.is_empty() => {
            plain(format!("diffusion@{}", stem(preset)), Net::Preset(preset.to_owned()))
        }
        _ => Err(wrong(format!("`{text}` is no method"))
            .with_hint("there are adain, adain:FILE, gatys, fast:NAME, diffusion, diffusion@PRESET")),
    }
}

/// Nets for one style each are one method together, which paints each painting with its net; unless two are for the same
/// painting: then each is a method of its own.
fn joined(contestants: Vec<Contestant>, styles: &[String]) -> Vec<Contestant> {
    let nets = |one: &Contestant| match &one.net {
        Net::PerStyle(nets) => nets.clone(),
        _ => Vec::new(),
    };
    let all: Vec<_> = contestants.iter().flat_map(nets).collect();
    let disjoint = (0..styles.len()).all(|style| all.iter().filter(|(of, _)| *of == style).count() <= 1);
    if all.len() < 2 || !disjoint {
        return contestants;
    }
    let mut kept: Vec<Contestant> = Vec::new();
    for one in contestants {
        if one.kind != Method::Fast {
            kept.push(one);
        } else if !kept.iter().any(|known| known.kind == Method::Fast) {
            kept.push(Contestant { name: "fast".to_owned(), net: Net::PerStyle(all.clone()), ..one });
        }
    }
    kept
}

/// Two nets in files of the same name are told apart by their paths.
fn name_apart(contestants: Vec<Contestant>) -> Vec<Contestant> {
    let names: Vec<String> = contestants.iter().map(|one| one.name.clone()).collect();
    let apart = |one: Contestant| {
        let twice = names.iter().filter(|name| **name == one.name).count() > 1;
        let name = match &one.net {
            Net::File(net) if twice => format!("{}:{}", one.kind.name(), net.display()),
            Net::Preset(preset) if twice => format!("{}@{preset}", one.kind.name()),
            Net::PerStyle(nets) if twice => {
                format!("{}:{}", one.kind.name(), nets.first().map_or("", |(_, net)| net.as_str()))
            }
            _ => one.name,
        };
        Contestant { name, ..one }
    };
    contestants.into_iter().map(apart).collect()
}

/// `[METHOD.]FLAG=VALUE`
fn assignment<'a>(of: &str, text: &'a str) -> Result<(Option<&'a str>, &'a str, &'a str)> {
    let wrong = || {
        Error::usage(of, format!("`{text}` is not FLAG=VALUE"))
            .with_hint(format!("for example: {of} strength=0.5, {of} gatys.iterations=50"))
    };
    let (left, value) = text.split_once('=').ok_or_else(wrong)?;
    let (whose, flag) = match left.rsplit_once('.') {
        Some((whose, flag)) => (Some(whose.trim()), flag),
        None => (None, left),
    };
    let flag = flag.trim().trim_start_matches('-');
    if flag.is_empty() || value.trim().is_empty() || whose.is_some_and(str::is_empty) {
        return Err(wrong());
    }
    Ok((whose, flag, value.trim()))
}

fn concerns(one: &Contestant, whose: Option<&str>) -> bool {
    whose.is_none_or(|whose| whose == one.kind.name() || whose == one.name)
}

fn check_taken(of: &str, (whose, flag): (Option<&str>, &str), taken: bool, contestants: &[Contestant]) -> Result<()> {
    if taken {
        return Ok(());
    }
    let whose = whose.filter(|whose| !contestants.iter().any(|one| concerns(one, Some(whose))));
    let error = match whose {
        Some(whose) => Error::usage(of, format!("`{whose}` is none of the methods compared")),
        None => Error::usage(of, format!("none of the methods has a flag --{flag} that can be set here")),
    };
    Err(error.with_hint("`impasto stylize --help` lists each method's flags"))
}

/// A number where it is one.
fn value(text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return Value::from(whole);
    }
    match text.parse::<f64>().ok().and_then(serde_json::Number::from_f64) {
        Some(number) => Value::Number(number),
        None => Value::from(text),
    }
}

fn stem(path: &str) -> String {
    Path::new(path).file_stem().map_or_else(|| path.to_owned(), |stem| stem.to_string_lossy().into_owned())
}

/// Whether two names mean the same: `starry_night` is `Starry-Night`.
fn alike(a: &str, b: &str) -> bool {
    let plain = |text: &str| text.to_lowercase().replace(['_', ' '], "-");
    plain(a) == plain(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(methods: &[&str], set: &[&str], sweeps: &[&str]) -> Result<Vec<Contestant>> {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        parse(&owned(methods), &owned(set), &owned(sweeps), &owned(&["starry_night", "the_scream"]))
    }

    fn words(one: &Contestant, entry: usize, style: usize) -> Option<String> {
        let words = one.words(&one.entries[entry], (style, Path::new("s.png")))?;
        Some(words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn sweeps_are_crossed_and_go_to_who_has_the_flag() {
        let methods =
            read(&["adain", "gatys"], &["gatys.iterations=9"], &["strength=0.5,1", "gatys.pyramid=0,64"]).unwrap();
        assert_eq!(methods[0].entries.len(), 2);
        assert_eq!(methods[1].entries.len(), 4);
        assert_eq!(words(&methods[0], 1, 0).unwrap(), "--method adain --style=s.png --strength=1");
        assert_eq!(
            words(&methods[1], 2, 0).unwrap(),
            "--method gatys --style=s.png --iterations=9 --strength=1 --pyramid=0"
        );
        assert_eq!(Value::Object(methods[1].entries[2].varied.clone()).to_string(), r#"{"strength":1,"pyramid":0}"#);
    }

    #[test]
    fn nets_for_one_style_compete_on_their_own_painting() {
        let joined = read(&["fast:starry-night", "fast:nets/b.safetensors=The Scream", "adain"], &[], &[]).unwrap();
        assert_eq!(joined.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["fast", "adain"]);
        assert_eq!(words(&joined[0], 0, 0).unwrap(), "--method fast --style=starry-night");
        assert_eq!(words(&joined[0], 0, 1).unwrap(), "--method fast --style=nets/b.safetensors");
        let apart = read(&["fast:starry_night", "fast:b/starry_night.pth"], &[], &[]).unwrap();
        assert_eq!(apart[1].name, "fast:b/starry_night.pth");
        assert_eq!(words(&apart[1], 0, 1), None);
        assert!(read(&["fast:wave"], &[], &[]).unwrap_err().hint().unwrap().contains("fast:wave=PAINTING"));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (methods, set, sweep, said) in [
            (&["cubism"][..], &[][..], &[][..], "cubism"),
            (&["fast"], &[], &[], "names no net"),
            (&["adain@x"], &[], &[], "adain@x"),
            (&["adain", "adain"], &[], &[], "twice"),
            (&["adain"], &["strength"], &[], "FLAG=VALUE"),
            (&["adain"], &["iterations=3"], &[], "--iterations"),
            (&["adain"], &["gatys.iterations=3"], &[], "gatys"),
            (&["adain"], &["output=x"], &[], "--output"),
            (&["adain"], &[], &["strength=1,1"], "twice"),
            (&["adain"], &[], &["strength=1", "adain.strength=0"], "varied twice"),
        ] {
            let error = read(methods, set, sweep).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
