//! `larder tier gc`: deletes what no node has used for a while from the shared tier. The command needs no daemon.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::context::Context;
use super::failure::Failure;
use super::output::{print_json, print_line};
use super::run_async::run_async;
use crate::app;
use crate::support::size;

/// What is done with the shared tier.
#[derive(Debug, Subcommand)]
pub(super) enum TierCommand {
    /// Delete what no node has used for a while
    Gc(Arguments),
}

/// What `gc` takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How long an object must not have been used, such as 30d; use is recorded about once a day
    #[arg(long, value_name = "DURATION", value_parser = age)]
    older_than: Duration,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Use is recorded once a day at most: what is younger may be in use.
const AGE_MIN: Duration = Duration::from_secs(3 * 86_400);

fn age(text: &str) -> Result<Duration, String> {
    let age = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if age < AGE_MIN { Err("expected at least 3d: use is recorded once a day".to_owned()) } else { Ok(age) }
}

pub(super) fn run(command: &TierCommand, context: &Context) -> Result<(), Failure> {
    let TierCommand::Gc(arguments) = command;
    let settings = context.settings()?;
    let tier = app::tier(&settings).map_err(Failure::usage)?;
    if !tier.is_there() {
        return Err(Failure::usage("no shared tier is configured: [tier] url is not set"));
    }
    let collected = run_async(tier.collect(arguments.older_than))?.map_err(Failure::caused)?;
    if arguments.json {
        print_json(&collected)?;
    } else {
        let (deleted, kept) = (size::shown(collected.deleted_bytes), size::shown(collected.kept_bytes));
        print_line(&format!(
            "{} object(s) deleted, {deleted}; {} kept, {kept}",
            collected.deleted, collected.kept
        ))?;
    }
    match collected.failed {
        0 => Ok(()),
        count => Err(Failure::failed(format!("{count} object(s) could not be deleted"))),
    }
}
