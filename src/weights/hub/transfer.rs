//! One file on its way: goes on from where an earlier try stopped, survives broken connections, and hashes as it writes.
//!
//! Must not decide what a file is called or whether its hash is right.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::http::{Broken, Client};
use crate::error::{Error, Result};
use crate::progress::{OnProgress, Progress, Stage};
use crate::weights::verify::{feed, hex};

/// Attempts in a row that may fail without a single byte before a transfer is given up.
const ATTEMPTS: u32 = 5;

/// A file to fetch.
pub(super) struct Wanted<'a> {
    pub(super) repo: &'a str,
    pub(super) commit: &'a str,
    pub(super) path: &'a str,
    pub(super) bytes: u64,
    /// How long to wait before the second attempt; doubles with every further one.
    pub(super) pause: Duration,
}

/// The file as it grows on disk.
struct Growing<'a> {
    wanted: &'a Wanted<'a>,
    place: &'a Path,
    file: File,
    hasher: Sha256,
    done: u64,
}

impl Wanted<'_> {
    /// Brings `place` to its full length, from wherever it stands, and gives its hash.
    pub(super) fn fetch(&self, client: &Client, place: &Path, on_progress: &mut OnProgress<'_>) -> Result<String> {
        let io = |e| Error::io(place, e);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(place).map_err(io)?;
        let mut done = file.metadata().map_err(io)?.len();
        if done > self.bytes {
            file.set_len(0).map_err(io)?;
            done = 0;
        }
        let mut hasher = Sha256::new();
        feed(&mut hasher, &mut file, place, done, self.path, on_progress)?;

        let mut growing = Growing { wanted: self, place, file, hasher, done };
        let mut failures = 0;
        while growing.done < self.bytes {
            let before = growing.done;
            match growing.attempt(client, on_progress) {
                Ok(()) => {}
                Err(Broken::Final(error)) => return Err(error),
                Err(Broken::Again(error)) => {
                    failures = if growing.done > before { 1 } else { failures + 1 };
                    if failures >= ATTEMPTS {
                        return Err(error);
                    }
                    wait(self.pause.saturating_mul(1 << (failures - 1)), &mut || on_progress(&growing.progress()))?;
                }
            }
        }
        growing.file.sync_all().map_err(io)?;
        Ok(hex(&growing.hasher.finalize()))
    }
}

impl Growing<'_> {
    fn progress(&self) -> Progress {
        let Wanted { bytes, path, .. } = *self.wanted;
        Progress { stage: Stage::Download, done: self.done, total: bytes, label: path.to_owned() }
    }

    fn attempt(&mut self, client: &Client, on_progress: &mut OnProgress<'_>) -> std::result::Result<(), Broken> {
        let Wanted { repo, commit, path, bytes, .. } = *self.wanted;
        let subject = format!("{repo} {path}");
        let io = |e| Broken::Final(Error::io(self.place, e));
        let mut transfer = client.fetch(repo, commit, path, self.done, bytes)?;
        if transfer.start != self.done {
            // The server began at the beginning after all.
            self.file.set_len(0).map_err(io)?;
            self.file.seek(SeekFrom::Start(0)).map_err(io)?;
            self.hasher = Sha256::new();
            self.done = 0;
        }
        let mut buffer = vec![0u8; 1 << 18];
        loop {
            on_progress(&self.progress()).map_err(Broken::Final)?;
            let broken = |reason: &str| {
                let reason = format!("the connection {reason} after {} of {bytes} bytes", self.done);
                Broken::Again(Error::remote(&subject, reason).with_hint("pull again to go on from here"))
            };
            let count = transfer.reader.read(&mut buffer).map_err(|e| broken(&format!("broke ({e})")))?;
            if count == 0 {
                return if self.done == bytes { Ok(()) } else { Err(broken("ended")) };
            }
            if count as u64 > bytes - self.done {
                let reason = format!("the server sends more than the {bytes} bytes it announced");
                return Err(Broken::Final(Error::remote(&subject, reason)));
            }
            self.file.write_all(&buffer[..count]).map_err(io)?;
            self.hasher.update(&buffer[..count]);
            self.done += count as u64;
        }
    }
}

/// Waits in short pieces, so that Ctrl-C is not waited out.
pub(super) fn wait(time: Duration, check: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let piece = Duration::from_millis(100);
    let mut left = time;
    while !left.is_zero() {
        check()?;
        std::thread::sleep(left.min(piece));
        left = left.saturating_sub(piece);
    }
    Ok(())
}
