//! `larder verify [--repair]`: hashes everything in the store, whether a daemon serves from it or not.

use std::io::{IsTerminal, Write};

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use crate::store::{Finding, Verifier};

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

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "what this command is for, and its progress")]
pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let settings = context.settings()?;
    let verifier = Verifier::open(&settings.store.path).map_err(Failure::failed)?;
    let digests = verifier.digests();
    let mut sound = 0_usize;
    let mut bytes = 0_u64;
    let mut damaged = Vec::new();
    let shows_progress = std::io::stderr().is_terminal() && !arguments.json;
    for (at, digest) in digests.iter().enumerate() {
        match verifier.verify(digest, arguments.repair).map_err(Failure::failed)? {
            Finding::Intact(size) => {
                sound += 1;
                bytes += size;
            }
            Finding::Damaged(reason) => damaged.push((*digest, reason)),
            Finding::Absent => {}
        }
        if shows_progress {
            eprint!(
                "\r{} of {} blobs, {} MiB, {} damaged ",
                at + 1,
                digests.len(),
                bytes >> 20,
                damaged.len()
            );
            let _ = std::io::stderr().flush();
        }
    }
    if shows_progress {
        eprintln!();
    }
    if arguments.json {
        let list: Vec<_> = damaged
            .iter()
            .map(|(digest, reason)| serde_json::json!({"digest": digest.to_string(), "reason": reason}))
            .collect();
        let set_aside = arguments.repair && !damaged.is_empty();
        println!(
            "{}",
            serde_json::json!({"sound": sound, "bytes": bytes, "damaged": list, "set_aside": set_aside})
        );
    } else {
        println!("{sound} blobs with {bytes} bytes are sound");
        for (digest, reason) in &damaged {
            println!("damaged: {digest}: {reason}");
        }
    }
    match (damaged.len(), arguments.repair) {
        (0, _) => Ok(()),
        (count, true) => {
            if !arguments.json {
                println!("{count} set aside in quarantine/; the next pull fetches them anew");
            }
            Ok(())
        }
        (count, false) => Err(Failure::failed(format!(
            "{count} damaged; run it with --repair to set them aside. A running daemon serves no damaged byte"
        ))),
    }
}
