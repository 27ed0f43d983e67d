//! `larder credentials IMAGE`: which credentials match an image, in the order in which they would be tried.
//!
//! The running daemon is asked: it has other files, another user and another environment than this command.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::context::{Context, no_daemon};
use super::failure::Failure;
use super::output::{print, print_json, warn};
use super::run_async::run_async;
use crate::admin::control::{self, ControlError, MatchCredentials, MatchedCredentials, PullSecret};
use crate::config::Settings;
use crate::credentials::{self, CredentialMatch, Keychain, Keys, PullSecrets};
use crate::reference::{Image, Repository};

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

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let (read, socket) = context.read_to_ask()?;
    let repository = &arguments.image.repository;
    let secrets = pull_secrets(&arguments.pull_secrets)?;
    let command = MatchCredentials { repository: repository.to_string(), secrets };
    let asked = run_async(async || control::send(&socket, &command).await)?;
    let MatchedCredentials { found, problems } = match asked {
        Ok(matched) => matched,
        Err(ControlError::Refused(why)) => return Err(Failure::failed(why)),
        Err(error) => {
            warn(&format!("no daemon answered ({error}); what follows is what this command itself finds"));
            without_daemon(&read.map_err(|_| no_daemon())?.settings, &command)?
        }
    };
    if arguments.json {
        print_json(&found)?;
    } else {
        print(&shown(&found, repository, &problems))?;
    }
    match problems.as_slice() {
        [] => Ok(()),
        problems => Err(Failure::failed(problems.join("\n"))),
    }
}

fn shown(found: &[CredentialMatch], repository: &Repository, problems: &[String]) -> String {
    if found.is_empty() && problems.is_empty() {
        return format!("no credential matches {repository}: it is pulled anonymously\n");
    }
    let line = |found: &CredentialMatch| {
        let username =
            if found.username.is_empty() { "(none: an anonymous attempt)" } else { &found.username };
        format!("{:<12} {:<32} {:<24} {}\n", found.source, found.key, username, found.file.display())
    };
    found.iter().map(line).collect()
}

/// What this process finds, with its own files, user and environment.
fn without_daemon(settings: &Settings, command: &MatchCredentials) -> Result<MatchedCredentials, Failure> {
    let keys = Keys::ephemeral().map_err(Failure::caused)?;
    let keychain = Keychain::build(&settings.credentials, Arc::new(keys)).map_err(Failure::usage)?;
    let mut secrets = PullSecrets::default();
    for PullSecret { file, content } in &command.secrets {
        secrets.add(file.as_ref(), content.as_bytes()).map_err(Failure::usage)?;
    }
    let repository = command.repository.parse().map_err(Failure::usage)?;
    let (found, problems) = run_async(async || keychain.matches(&repository, &secrets).await)?;
    Ok(MatchedCredentials { found, problems })
}

/// Pull secrets as they are in their files, to be sent to the daemon.
///
/// # Errors
/// One that cannot be read.
pub(super) fn pull_secrets(paths: &[PathBuf]) -> Result<Vec<PullSecret>, Failure> {
    let files = credentials::pull_secret_files(paths).map_err(Failure::usage)?;
    let read = files.into_iter().map(|(file, content)| {
        let content = String::from_utf8(content).map_err(|error| {
            // Where it is wrong, and nothing of what is there.
            let (path, at) = (file.display(), error.utf8_error().valid_up_to());
            Failure::usage(format!("the pull secret {path} is no text from byte {at} on"))
        })?;
        Ok(PullSecret { file: file.display().to_string(), content })
    });
    read.collect()
}
