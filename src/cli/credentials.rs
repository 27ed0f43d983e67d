//! `larder credentials IMAGE`: which credentials match an image, in the order in which they would be tried.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::output::print_json;
use super::run_async::run_async;
use crate::credentials::{Keychain, Keys};
use crate::reference::Image;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// An image name as in a pod: registry.corp/team/app:v1
    image: Image,
    /// A pull secret besides the configured ones: docker config, Secret manifest, or a directory of them
    #[arg(long = "pull-secret", value_name = "FILE")]
    pull_secrets: Vec<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let settings = context.settings()?;
    let keys = Keys::ephemeral().map_err(Failure::failed)?;
    let keychain = Keychain::build(&settings.credentials, Arc::new(keys)).map_err(Failure::usage)?;
    let mut secrets = settings.credentials.pull_secrets;
    secrets.extend(arguments.pull_secrets.iter().cloned());
    let repository = &arguments.image.repository;
    let matches = run_async(keychain.matches(repository, &secrets))?.map_err(Failure::failed)?;
    if arguments.json {
        return print_json(&matches);
    }
    if matches.is_empty() {
        println!("no credential matches {repository}: it is pulled anonymously");
    }
    for found in &matches {
        let username =
            if found.username.is_empty() { "(none: an anonymous attempt)" } else { &found.username };
        println!("{:<12} {:<32} {:<24} {}", found.source, found.key, username, found.file.display());
    }
    Ok(())
}
