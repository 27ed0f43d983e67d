//! `larder verify [--repair]`: hashes everything in the store, whether a daemon serves from it or not.

use std::io::IsTerminal;

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::output::{print_line, say};
use crate::reference::Digest;
use crate::store::{Finding, Verifier};
use crate::support::size;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Set damaged blobs aside, so that the next pull fetches them anew
    #[arg(long)]
    repair: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What looking at the blobs found.
#[derive(Debug, Default)]
struct Report {
    sound: usize,
    bytes: u64,
    damaged: Vec<(Digest, String)>,
    /// Blobs that the disk did not give, or that could not be set aside.
    unreadable: Vec<(Digest, String)>,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let settings = context.settings()?;
    let verifier = Verifier::open(&settings.store.path).map_err(Failure::caused)?;
    let report = look(&verifier, arguments);
    let json = || report.json(arguments.repair).to_string();
    print_line(&if arguments.json { json() } else { report.text(arguments.repair) })?;
    report.outcome(arguments.repair)
}

fn look(verifier: &Verifier, arguments: &Arguments) -> Report {
    let digests = verifier.digests();
    let mut report = Report::default();
    let shows_progress = std::io::stderr().is_terminal() && !arguments.json;
    for (at, digest) in digests.iter().enumerate() {
        match verifier.verify(digest, arguments.repair) {
            Ok(Finding::Intact(size)) => {
                report.sound += 1;
                report.bytes += size;
            }
            Ok(Finding::Damaged(reason)) => report.damaged.push((*digest, reason)),
            Ok(Finding::Absent) => {}
            // The others are looked at all the same.
            Err(error) => report.unreadable.push((*digest, format!("{error}: {}", error.cause()))),
        }
        if shows_progress {
            let (looked, all, damaged) = (at + 1, digests.len(), report.damaged.len());
            say(&format!("\r{looked} of {all} blobs, {} MiB, {damaged} damaged ", report.bytes >> 20));
        }
    }
    if shows_progress {
        say("\n");
    }
    report
}

impl Report {
    fn json(&self, repair: bool) -> serde_json::Value {
        let list = |found: &[(Digest, String)]| -> Vec<_> {
            let shown = |(digest, reason): &(Digest, String)| serde_json::json!({"digest": digest.to_string(), "reason": reason});
            found.iter().map(shown).collect()
        };
        serde_json::json!({
            "sound": self.sound,
            "bytes": self.bytes,
            "damaged": list(&self.damaged),
            "unreadable": list(&self.unreadable),
            "set_aside": repair && !self.damaged.is_empty(),
        })
    }

    fn text(&self, repair: bool) -> String {
        let mut lines = vec![format!("{} blobs with {} are sound", self.sound, size::shown(self.bytes))];
        lines.extend(self.damaged.iter().map(|(digest, reason)| format!("damaged: {digest}: {reason}")));
        lines.extend(
            self.unreadable.iter().map(|(digest, reason)| format!("not looked at: {digest}: {reason}")),
        );
        if repair && !self.damaged.is_empty() {
            let count = self.damaged.len();
            lines.push(format!("{count} set aside in quarantine/; the next pull fetches them anew"));
        }
        lines.join("\n")
    }

    fn outcome(&self, repair: bool) -> Result<(), Failure> {
        if !self.unreadable.is_empty() {
            let count = self.unreadable.len();
            return Err(Failure::failed(format!(
                "{count} could not be looked at or set aside; the disk of the store may be failing. A running daemon serves no damaged byte"
            )));
        }
        match (self.damaged.len(), repair) {
            (0, _) | (_, true) => Ok(()),
            (count, false) => Err(Failure::failed(format!(
                "{count} damaged; run it with --repair to set them aside. A running daemon serves no damaged byte"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_field_that_a_script_reads_is_described() {
        let page = include_str!("../../docs/commands.md");
        let one = vec![(Digest::of(b"one"), "why".to_owned())];
        let report = Report { sound: 1, bytes: 1, damaged: one.clone(), unreadable: one };
        let json = report.json(true);
        let within = |name: &str| json[name][0].as_object().unwrap().keys();
        for field in json.as_object().unwrap().keys().chain(within("damaged")).chain(within("unreadable")) {
            assert!(page.contains(&format!("`{field}`")), "{field} is not in docs/commands.md");
        }
    }

    #[test]
    fn one_blob_that_cannot_be_set_aside_does_not_keep_the_others_from_being_looked_at() {
        let store = tempfile::tempdir().unwrap();
        let blobs = store.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(store.path().join("format"), "larder store 1\n").unwrap();
        fs::write(store.path().join("quarantine"), "no directory").unwrap();
        let sound = [Digest::of(b"one"), Digest::of(b"two")];
        fs::write(blobs.join(sound[0].hex()), "one").unwrap();
        fs::write(blobs.join(sound[1].hex()), "two").unwrap();
        let damaged = Digest::of(b"damaged");
        fs::write(blobs.join(damaged.hex()), "not what it was").unwrap();

        let verifier = Verifier::open(store.path()).unwrap();
        let report = look(&verifier, &Arguments { repair: true, json: true });
        assert_eq!((report.sound, report.bytes, report.damaged.len()), (2, 6, 0));
        assert_eq!(report.unreadable.iter().map(|(digest, _)| *digest).collect::<Vec<_>>(), [damaged]);
        assert!(report.outcome(true).is_err());
        assert!(Report { unreadable: Vec::new(), ..report }.outcome(true).is_ok());
    }
}
