//! `larder revoke REPOSITORY|--all`: ends rights by hand, in an outage too.
//!
//! Asks the running daemon, which has rights in memory as well; where none runs, the store is changed itself.

use std::sync::Arc;

use clap::Args;

use super::context::Context;
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
    let settings = context.settings()?;
    let repository = arguments.repository.as_ref().map(|image| &image.repository);
    let command = Revoke { repository: repository.map(ToString::to_string) };
    let revoked = match run_async(control::send(&settings.admin.socket, &command))? {
        Ok(done) => done.revoked,
        Err(ControlError::NoDaemon(_)) => in_store(&settings, repository)?,
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
    if !settings.store.path.is_dir() {
        return Err(Failure::failed(format!(
            "no daemon listens on {} and there is no store at {}",
            settings.admin.socket.display(),
            settings.store.path.display()
        )));
    }
    let metrics = store::metrics::Metrics::register(&Registry::new()).map_err(Failure::caused)?;
    let done = run_async(async {
        let store = Store::open(&settings.store, Clock::system(), Arc::new(metrics))?;
        let revoked = store.records().revoke(repository, || {}).await;
        store.close().await;
        revoked
    })?;
    done.map_err(Failure::caused)
}
