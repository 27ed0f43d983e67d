//! `larder revoke REPOSITORY|--all`: ends rights by hand, in an outage too.
//!
//! Asks the running daemon, which has rights in memory as well; where none runs, the store is changed itself, by its
//! owner alone: the daemon, which has a user of its own, could neither read nor replace what root wrote there.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use clap::Args;

use super::context::{Context, no_daemon};
use super::failure::Failure;
use super::output::print_line;
use super::run_async::run_async;
use crate::admin::control::{self, ControlError, Revoke};
use crate::config::Settings;
use crate::reference::{Image, Repository};
use crate::store::{self, Store};
use crate::support::clock::Clock;
use crate::support::metrics::Registry;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A repository as in a pod's image name: registry.corp/team/app
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    repository: Option<Image>,
    /// Every repository
    #[arg(long)]
    all: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let (read, socket) = context.read_to_ask()?;
    let repository = arguments.repository.as_ref().map(|image| &image.repository);
    let command = Revoke { repository: repository.map(ToString::to_string) };
    let revoked = match run_async(async || control::send(&socket, &command).await)? {
        Ok(done) => done.revoked,
        Err(ControlError::NoDaemon(_)) => in_store(&read.map_err(|_| no_daemon())?.settings, repository)?,
        Err(error) => return Err(Failure::caused(error)),
    };
    let of = repository.map_or("all repositories".to_owned(), ToString::to_string);
    if arguments.json {
        let said = serde_json::json!({"repository": command.repository, "revoked": revoked});
        print_line(&said.to_string())?;
    }
    if revoked == 0 && repository.is_some() {
        return Err(Failure::failed(format!("no right to {of} is known: nothing was ended")));
    }
    if !arguments.json {
        print_line(&format!("{revoked} right(s) to {of} ended; the next request is checked upstream"))?;
    }
    Ok(())
}

fn in_store(settings: &Settings, repository: Option<&Repository>) -> Result<usize, Failure> {
    let path = &settings.store.path;
    let Some(store) = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_dir) else {
        return Err(Failure::failed(format!(
            "no daemon listens on {} and there is no store at {}",
            settings.admin.socket.display(),
            path.display()
        )));
    };
    may_write(path, store.uid(), rustix::process::geteuid().as_raw())?;
    let metrics = store::metrics::Metrics::register(&Registry::new()).map_err(Failure::caused)?;
    let done = run_async(async || {
        let store = Store::open(&settings.store, Clock::system(), Arc::new(metrics))?;
        let revoked = store.records().revoke(repository, || {}).await;
        store.close().await;
        revoked
    })?;
    done.map_err(Failure::caused)
}

/// Only the owner of a store writes to it.
fn may_write(store: &Path, owner: u32, user: u32) -> Result<(), Failure> {
    if owner == user {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "no daemon runs, and the store at {} belongs to user {owner}, not to the user of this command ({user}), whose files the \
         daemon could not read: start the daemon (systemctl start larder), then run this again; docs/commands.md has the way \
         without a start",
        store.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_shell_leaves_no_file_in_a_store_that_the_daemon_could_not_read() {
        let at = Path::new("/var/lib/larder/store");
        assert!(may_write(at, 62_000, 62_000).is_ok() && may_write(at, 0, 0).is_ok());
        for (owner, user) in [(62_000, 0), (0, 62_000)] {
            let refused = may_write(at, owner, user).unwrap_err();
            assert!(refused.message().contains("systemctl start larder"), "{refused:?}");
        }
    }
}
