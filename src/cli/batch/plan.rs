//! What every picture needs: its flags checked as its command checks them, and an order in which nets change least.

use super::entry::Faults;
use super::file::is_pattern;
use super::keys::{Args, CONTENT, Command, Keys, Values, shown};
use super::matrix::{Laid, Picture};
use crate::cli::{Stop, generate, stylize};
use clap::error::ContextKind;
use impasto::Error;
use std::collections::HashMap;

/// What a picture shares with others, from what is dearest to change to what is cheapest. Equal numbers are equal needs;
/// they are given in the order of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Needs {
    /// The checkpoint or net, and what it computes in.
    pub(super) model: usize,
    /// Its adapters.
    pub(super) adapters: usize,
    /// Everything a painter is opened with.
    pub(super) painter: usize,
    /// Everything but what changes from picture to picture: the seed, or the photo.
    pub(super) group: usize,
}

/// Numbers for texts, in the order they come.
#[derive(Default)]
struct Ranks(HashMap<String, usize>);

impl Ranks {
    fn of(&mut self, text: String) -> usize {
        let next = self.0.len();
        *self.0.entry(text).or_insert(next)
    }
}

/// Keys that change from picture to picture without anything else having to.
fn changing(command: Command) -> &'static [&'static str] {
    match command {
        Command::Generate => &["seed"],
        Command::Stylize => &[CONTENT],
    }
}

/// Checks every picture's flags, pictures and names of nets, opening none. Without faults there are as many needs as
/// pictures.
pub(super) fn check(
    laid: &[Laid],
    pictures: &[Picture],
    device: Option<&str>,
    keys: &mut Keys,
    faults: &mut Faults,
) -> Vec<Needs> {
    let [mut models, mut adapters, mut painters, mut groups] = [(); 4].map(|()| Ranks::default());
    let mut known: HashMap<usize, Needs> = HashMap::new();
    let mut needs = Vec::new();
    for picture in pictures {
        let job = &laid[picture.job];
        let command = job.job.command;
        let without = |left_out: &[&str]| text(command, &picture.values, left_out);
        let group = groups.of(without(changing(command)));
        let known_needs = known.get(&group).copied();
        let args = match keys.args(command, &picture.values, device, "picture.png".as_ref()) {
            Ok(args) => args,
            Err(error) => {
                tell_clap(error, job, picture, faults);
                continue;
            }
        };
        if let Some(found) = known_needs {
            needs.push(found);
            continue;
        }
        let found = match &args {
            Args::Generate(args) => generate::nets(args).map(|(model, adapters)| (model, adapters, without(&["seed"]))),
            Args::Stylize(args) => stylize::nets(args).map(|nets| {
                let painter = without(nets.changeable);
                (nets.model, nets.adapters, painter)
            }),
        };
        match found {
            Ok((model, adapter, painter)) => {
                let found = Needs {
                    model: models.of(model),
                    adapters: adapters.of(adapter),
                    painter: painters.of(painter),
                    group,
                };
                known.insert(group, found);
                needs.push(found);
            }
            Err(error) => tell(&error, job, picture, faults),
        }
    }
    needs
}

/// The pictures' numbers in the order they are painted: as in the file, but those that need the same nets together.
pub(super) fn order(needs: &[Needs]) -> Vec<usize> {
    let mut order: Vec<_> = (0..needs.len()).collect();
    order.sort_by_key(|&at| needs[at]);
    order
}

fn text(command: Command, values: &Values, left_out: &[&str]) -> String {
    let kept: Vec<_> = values.iter().filter(|(name, _)| !left_out.contains(&name.as_str())).collect();
    serde_json::to_string(&(command, kept)).unwrap_or_default()
}

/// Says what is wrong with a picture by the line of the key.
pub(super) fn tell(error: &Error, job: &Laid, picture: &Picture, faults: &mut Faults) {
    let (key, reason) = match error {
        Error::Usage { subject, reason, .. } => match subject.strip_prefix("--") {
            Some(key) if key.split_whitespace().count() == 1 => (key.to_owned(), reason.clone()),
            _ => (String::new(), error.to_string()),
        },
        // Which key a file is of is seen by its name.
        Error::File { path, .. } | Error::Io { path, .. } => {
            let path = path.to_string_lossy();
            let is_it = |value: &serde_json::Value| {
                let text = shown(value);
                text == path || text.rsplit_once(':').is_some_and(|(text, _)| text == path)
            };
            let one_is_it = |value: &serde_json::Value| match value {
                serde_json::Value::Array(list) => list.iter().any(is_it),
                value => is_it(value),
            };
            let key = picture.values.iter().find(|(_, value)| one_is_it(value)).map(|(key, _)| key.clone());
            (key.unwrap_or_default(), error.to_string())
        }
        _ => (String::new(), error.to_string()),
    };
    let hint = match picture.values.get(&key) {
        Some(value) if is_pattern(value) => Some(format!("patterns are axes: put `{key}` into [job.matrix]")),
        _ => error.hint().map(str::to_owned),
    };
    faults.add(job.line(picture, &key), &key, reason, hint);
}

fn tell_clap(error: clap::Error, job: &Laid, picture: &Picture, faults: &mut Faults) {
    let arg = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    let key = arg.trim_start_matches('-').split([' ', '=', '<']).next().unwrap_or_default().to_owned();
    let key = if arg.starts_with("--") { key } else { String::new() };
    let (reason, _) = Stop(error).one_line();
    faults.add(job.line(picture, &key), &key, reason, None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_the_same_nets_is_painted_together_in_the_order_of_the_file() {
        let needs = |model, adapters, group| Needs { model, adapters, painter: group, group };
        // As numbered by first appearance.
        let needs = [needs(0, 0, 0), needs(1, 0, 1), needs(0, 1, 2), needs(0, 0, 0), needs(1, 0, 1), needs(0, 0, 3)];
        assert_eq!(order(&needs), [0, 3, 5, 2, 1, 4]);
    }
}
