//! Paints one picture after the other, and keeps what the next one can use: the nets, the encoded prompt, the style.

use super::keys::{Args, CONTENT, Command, Keys, shown};
use super::matrix::Picture;
use super::plan::Needs;
use crate::cli::generate::plan::Plan;
use crate::cli::loaded::Loaded;
use crate::cli::{Printer, generate, stylize};
use impasto::{Error, Result};
use std::path::{Path, PathBuf};

/// What is open.
pub(super) struct Studio<'a> {
    keys: &'a mut Keys,
    device: Option<&'a str>,
    loaded: Loaded,
    open: Option<Open>,
}

enum Open {
    Generate { group: usize, easel: Box<generate::Easel> },
    Stylize { painter: usize, group: usize, easel: Box<stylize::Easel> },
}

impl<'a> Studio<'a> {
    /// Nothing is open yet.
    pub(super) fn new(keys: &'a mut Keys, device: Option<&'a str>) -> Self {
        Self { keys, device, loaded: Loaded::for_many(), open: None }
    }

    /// Finds the nets of a picture, fetching those that have a name and are not here yet.
    pub(super) fn locate(&mut self, command: Command, picture: &Picture, printer: &Printer) -> anyhow::Result<()> {
        match self.args(command, picture, Path::new("picture.png"))? {
            Args::Generate(args) => generate::locate(&args, printer),
            Args::Stylize(args) => stylize::locate(&args, printer),
        }
    }

    /// Paints a picture into a file; gives the warnings.
    pub(super) fn paint(
        &mut self,
        command: Command,
        picture: &Picture,
        needs: Needs,
        path: &Path,
        label: &str,
        printer: &Printer,
    ) -> anyhow::Result<Vec<String>> {
        match self.args(command, picture, path)? {
            Args::Generate(args) => {
                let plan = Plan::new(&args)?;
                let (seed, row) = (plan.seeds().next().unwrap_or_default(), plan.row);
                if !matches!(&self.open, Some(Open::Generate { group, .. }) if *group == needs.group) {
                    // Before the next one comes in.
                    self.open = None;
                    let easel = generate::Easel::new(plan, args.device, true, &mut self.loaded, printer)?;
                    self.open = Some(Open::Generate { group: needs.group, easel: Box::new(easel) });
                }
                let Some(Open::Generate { easel, .. }) = &self.open else {
                    return Err(Error::usage("batch", "opened another command").into());
                };
                easel.paint(seed, row, path, &mut printer.bar())?;
                Ok(easel.warnings.clone())
            }
            Args::Stylize(args) => {
                let photo = PathBuf::from(picture.values.get(CONTENT).map(shown).unwrap_or_default());
                self.set_up(&args, needs, printer)?;
                let Some(Open::Stylize { easel, .. }) = &mut self.open else {
                    return Err(Error::usage("batch", "opened another command").into());
                };
                let (_, _, warnings) = easel.paint(&photo, path, printer, label)?;
                warnings.iter().for_each(|warning| printer.warn(warning));
                Ok(warnings)
            }
        }
    }

    fn set_up(&mut self, args: &stylize::Args, needs: Needs, printer: &Printer) -> anyhow::Result<()> {
        match &mut self.open {
            Some(Open::Stylize { group, .. }) if *group == needs.group => {}
            Some(Open::Stylize { painter, group, easel }) if *painter == needs.painter => {
                // Where that fails halfway, nobody may take the easel for ready.
                *group = usize::MAX;
                easel.restyle(args)?;
                *group = needs.group;
            }
            _ => {
                self.open = None;
                let easel = Box::new(stylize::Easel::open(args, &mut self.loaded, printer)?);
                self.open = Some(Open::Stylize { painter: needs.painter, group: needs.group, easel });
            }
        }
        Ok(())
    }

    /// Whether the picture in a file is this one, by the recipe in it.
    pub(super) fn recognises(&mut self, command: Command, picture: &Picture, path: &Path) -> bool {
        match self.args(command, picture, path) {
            Ok(Args::Generate(args)) => generate::is_painted(&args, path),
            Ok(Args::Stylize(args)) => {
                stylize::is_painted(&args, Path::new(&picture.values.get(CONTENT).map(shown).unwrap_or_default()), path)
            }
            Err(_) => false,
        }
    }

    fn args(&mut self, command: Command, picture: &Picture, path: &Path) -> Result<Args> {
        let args = self.keys.args(command, &picture.values, self.device, path);
        args.map_err(|error| Error::usage("job", error.to_string()))
    }
}
