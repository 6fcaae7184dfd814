//! X/Y/Z plots: which axis of a job goes where on its grid.

use super::entry::Faults;
use super::keys::{called, nearest};
use super::matrix::{Axis, Laid};
use super::sheet::Grid;
use std::path::PathBuf;

/// Checks that the axes a job wants to see are its own.
pub(super) fn check(laid: &[Laid], faults: &mut Faults) {
    for job in laid {
        let names = || job.axes.iter().flat_map(|axis| axis.names.iter().map(String::as_str));
        for wanted in &job.job.grid {
            if !names().any(|name| name == wanted) {
                let hint = match nearest(wanted, names()) {
                    Some(near) => format!("the nearest is \"{near}\""),
                    None => format!("its axes are {}", names().collect::<Vec<_>>().join(", ")),
                };
                faults.add(job.job.grid_line, "grid", format!("\"{wanted}\" is no axis of the job"), Some(hint));
            }
        }
        if let [x, y] = job.job.grid.as_slice()
            && job.axes.iter().any(|axis| axis.names.contains(x) && axis.names.contains(y))
        {
            faults.add(job.job.grid_line, "grid", format!("\"{x}\" and \"{y}\" are one axis"), None);
        }
    }
}

/// The grid of a job; nothing where it has no axis. `paths` are those of all pictures.
pub(super) fn of<'a>(job: &Laid, paths: &'a [PathBuf]) -> Option<Grid<'a>> {
    let (x, y) = choose(job);
    let x = x?;
    let rest: Vec<usize> = (0..job.axes.len()).filter(|axis| *axis != x && Some(*axis) != y).collect();
    let length = |axis: usize| job.axes[axis].points.len();
    let labels =
        |axis: usize| (name(&job.axes[axis]), job.axes[axis].points.iter().map(|it| it.label.clone()).collect());
    let mut panels = Vec::new();
    let mut place = vec![0; job.axes.len()];
    for panel in 0..rest.iter().map(|axis| length(*axis)).product() {
        let mut left = panel;
        for axis in rest.iter().rev() {
            (place[*axis], left) = (left % length(*axis), left / length(*axis));
        }
        let told = rest.iter().filter(|axis| length(**axis) > 1);
        let told: Vec<_> = told
            .map(|axis| format!("{} {}", name(&job.axes[*axis]), job.axes[*axis].points[place[*axis]].label))
            .collect();
        let mut pictures = Vec::new();
        for row in 0..y.map_or(1, length) {
            if let Some(y) = y {
                place[y] = row;
            }
            for column in 0..length(x) {
                place[x] = column;
                let cell = job.axes.iter().zip(&place).fold(0, |cell, (axis, at)| cell * axis.points.len() + at);
                pictures.push(paths[job.cells[cell]].as_path());
            }
        }
        panels.push((told.join(", "), pictures));
    }
    let y = y.map(labels).unwrap_or_default();
    let plain = job.job.keys.iter().map(|(key, (value, _))| format!("{key} {}", called(None, value)));
    let settings: Vec<_> = std::iter::once(job.job.command.name().to_owned()).chain(plain).collect();
    Some(Grid { heading: job.job.name.clone(), settings: settings.join(", "), x: labels(x), y, panels })
}

fn name(axis: &Axis) -> String {
    axis.names.join(", ")
}

// The axes the job asks for; else the first two with more than one value.
fn choose(job: &Laid) -> (Option<usize>, Option<usize>) {
    let named = |name: &String| job.axes.iter().position(|axis| axis.names.contains(name));
    let mut wanted: Vec<_> = job.job.grid.iter().filter_map(named).collect();
    if wanted.is_empty() {
        wanted = (0..job.axes.len()).filter(|axis| job.axes[*axis].points.len() > 1).take(2).collect();
    }
    (wanted.first().copied(), wanted.get(1).copied())
}
