//! One process per output folder, or one per part of it: a lock of the operating system's on a hidden file, which is free
//! again whenever its process is gone, however it went.

use super::shard::Shard;
use crate::cli::Printer;
use impasto::{Error, Result};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// The lock that every process on a folder holds: alone, or shared by parts.
const WHOLE: &str = ".batch.lock";

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _files: Vec<File>,
}

impl Lock {
    /// Locks a folder, or a part of it. Parts of one division share the folder; everything else excludes each other.
    pub(super) fn take(folder: &Path, shard: Option<Shard>, printer: &Printer) -> Result<Self> {
        let whole = open(&folder.join(WHOLE))?;
        let Some(shard) = shard else {
            if !taken(whole.try_lock(), folder, printer)? {
                return Err(busy(folder, "this folder"));
            }
            return Ok(Self { _files: vec![whole] });
        };
        if !taken(whole.try_lock_shared(), folder, printer)? {
            return Err(busy(folder, "this folder"));
        }
        // First our own, then a look at the others: of two that start at once at least one sees the other.
        let own = open(&folder.join(name(shard)))?;
        if !taken(own.try_lock(), folder, printer)? {
            return Err(busy(folder, &format!("part {shard}")));
        }
        for (other, path) in parts(folder)? {
            // Shared, so that two who look do not get into each other's way.
            if other.of != shard.of && matches!(open(&path)?.try_lock_shared(), Err(TryLockError::WouldBlock)) {
                let hint = "one folder takes the parts of one division at a time";
                return Err(busy(folder, &format!("part {other}")).with_hint(hint));
            }
        }
        Ok(Self { _files: vec![whole, own] })
    }
}

fn busy(folder: &Path, what: &str) -> Error {
    Error::file(folder, format!("another `impasto batch` paints {what}"))
        .with_hint("wait for it, name another folder with --output, or share the work: --shard 1/2 and --shard 2/2")
}

fn open(path: &Path) -> Result<File> {
    let opened = File::options().create(true).truncate(false).read(true).write(true).open(path);
    opened.map_err(|error| Error::io(path, error))
}

// Some network drives have no locks.
fn taken(answer: Result<(), TryLockError>, folder: &Path, printer: &Printer) -> Result<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => {
            let folder = folder.display();
            printer.warn(format_args!(
                "{folder} cannot be locked ({error}); make sure that no other process paints there"
            ));
            Ok(true)
        }
    }
}

fn name(shard: Shard) -> String {
    format!(".batch{}.lock", Shard::suffix(Some(shard)))
}

/// The parts that have painted here, or do.
fn parts(folder: &Path) -> Result<Vec<(Shard, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))? {
        let entry = entry.map_err(|error| Error::io(folder, error))?;
        let name = entry.file_name();
        let part = name.to_str().and_then(|name| name.strip_prefix(".batch-")?.strip_suffix(".lock"));
        if let Some(shard) = part.and_then(|part| part.replace("-of-", "/").parse().ok()) {
            found.push((shard, entry.path()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_one_division_share_a_folder_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let printer = Printer::new(true);
        let take = |shard: Option<&str>| Lock::take(folder.path(), shard.map(|shard| shard.parse().unwrap()), &printer);
        let whole = take(None).unwrap();
        assert!(take(None).is_err() && take(Some("1/2")).is_err());
        drop(whole);
        let first = take(Some("1/2")).unwrap();
        assert!(take(None).is_err() && take(Some("1/2")).is_err());
        assert!(take(Some("1/3")).unwrap_err().to_string().contains("part 1/2"));
        let second = take(Some("2/2")).unwrap();
        drop((first, second));
        assert!(take(Some("1/3")).is_ok() && take(None).is_ok());
    }
}
