//! `larder tier gc`: deletes what no node has used for a while from the shared tier. The command needs no daemon.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::context::Context;
use super::failure::Failure;
use super::output::{print_json, print_line};
use super::run_async::run_async;
use crate::app;
use crate::support::size;
use crate::tier::Location;

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

/// Whether a command of `user` may write to the tier: root not where another user writes to a directory.
///
/// # Errors
/// The sentence that says why not.
pub(super) fn as_root(location: &Location, user: u32) -> Result<(), String> {
    match location.directory_of_another_user() {
        Some(directory) if user == 0 => Err(format!(
            "{} is not root's alone: what root makes there, the daemon's user could not write to",
            directory.display()
        )),
        _ => Ok(()),
    }
}

pub(super) fn run(command: &TierCommand, context: &Context) -> Result<(), Failure> {
    let TierCommand::Gc(arguments) = command;
    let settings = context.settings()?;
    if let Some(config) = &settings.tier {
        // It writes an object, by which it learns the time of the store.
        as_root(&config.location, rustix::process::geteuid().as_raw()).map_err(|why| {
            Failure::failed(format!(
                "{why}: run this as the daemon's user (setpriv --reuid=USER --regid=GROUP --clear-groups larder tier gc …); \
                 where the daemon is root, let nobody else write there (chmod go-w)"
            ))
        })?;
    }
    let tier = app::tier(&settings).map_err(Failure::usage)?;
    if !tier.is_there() {
        return Err(Failure::usage("no shared tier is configured: [tier] url is not set"));
    }
    let collected = run_async(async || tier.collect(arguments.older_than).await)?.map_err(Failure::caused)?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_root_shell_makes_no_directory_in_a_tier_that_the_daemon_could_not_write_to() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let location: Location = format!("file://{}", directory.path().display()).parse().unwrap();
        assert!(as_root(&location, 0).unwrap_err().contains("the daemon's user"));
        assert!(as_root(&location, 62_000).is_ok(), "the daemon's own user writes there");
        assert!(as_root(&"s3://bucket".parse().unwrap(), 0).is_ok());
    }
}
