//! `larder pull`: images ahead of their pods, by way of the running daemon.

mod screen;

use std::path::{Path, PathBuf};

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::run_async::run_async;
use crate::admin::control::{self, Pull, PullImage, PullSecret};
use crate::credentials;
use crate::prepull::{self, SecretManifest};
use crate::reference::{Image, Platform};
use screen::Screen;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Image names as in a pod: nginx, registry.corp/team/app:v1
    images: Vec<Image>,
    /// A file with an image name a line; # begins a comment
    #[arg(long = "file", value_name = "LIST")]
    lists: Vec<PathBuf>,
    /// Kubernetes manifests of any kind, a file or a directory: every image of every container and image volume, with the
    /// pull secrets that are there too
    #[arg(long, value_name = "PATH")]
    manifests: Vec<PathBuf>,
    /// For this platform, such as linux/arm64, instead of the node's own; may be repeated
    #[arg(long = "platform", value_name = "PLATFORM", conflicts_with = "all_platforms")]
    platforms: Vec<Platform>,
    /// For every platform that there is
    #[arg(long)]
    all_platforms: bool,
    /// A pull secret besides the configured ones: docker config, Secret manifest, or a directory of them
    #[arg(long = "pull-secret", value_name = "FILE")]
    pull_secrets: Vec<PathBuf>,
    /// Pin them: nothing of them is evicted before `larder unpin`
    #[arg(long)]
    pin: bool,
    /// Progress as JSON, one object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let settings = context.settings()?;
    let command = command(arguments, settings.credentials.pull_secrets)?;
    if command.images.is_empty() {
        return Err(Failure::usage("no images: name some, or give --file or --manifests"));
    }
    let mut screen = Screen::new(arguments.json);
    let done = run_async(control::pull(&settings.admin.socket, &command, |event| screen.show(&event)))?;
    done.map_err(Failure::failed)?;
    match screen.failed() {
        0 => Ok(()),
        failed => Err(Failure::failed(format!(
            "{failed} of {} image(s) could not be fetched",
            command.images.len()
        ))),
    }
}

/// The command for the daemon; `pull_secrets` are the configured ones.
fn command(arguments: &Arguments, pull_secrets: Vec<PathBuf>) -> Result<Pull, Failure> {
    let mut paths = pull_secrets;
    paths.extend(arguments.pull_secrets.iter().cloned());
    let mut secrets = read_secrets(&paths)?;
    let common: Vec<usize> = (0..secrets.len()).collect();
    let mut names: Vec<String> = arguments.images.iter().map(ToString::to_string).collect();
    for list in &arguments.lists {
        names.extend(listed(list)?);
    }
    let mut images: Vec<PullImage> =
        names.into_iter().map(|image| PullImage { image, secrets: common.clone() }).collect();
    for path in &arguments.manifests {
        for found in prepull::read(path).map_err(Failure::usage)? {
            let mut own = Vec::new();
            for SecretManifest { path, content } in found.secrets {
                let same = |s: &PullSecret| s.content == content;
                let at = secrets.iter().position(same).unwrap_or_else(|| {
                    secrets.push(PullSecret { file: path.display().to_string(), content: content.clone() });
                    secrets.len() - 1
                });
                own.push(at);
            }
            own.extend(&common);
            images.push(PullImage { image: found.image.to_string(), secrets: own });
        }
    }
    let platforms = arguments.platforms.iter().map(ToString::to_string).collect();
    Ok(Pull { images, secrets, platforms, all_platforms: arguments.all_platforms, pin: arguments.pin })
}

/// The pull secrets in these files and directories, as the daemon is sent them.
///
/// # Errors
/// One that cannot be read.
pub(super) fn read_secrets(paths: &[PathBuf]) -> Result<Vec<PullSecret>, Failure> {
    let mut secrets = Vec::new();
    for (file, content) in credentials::pull_secret_files(paths).map_err(Failure::usage)? {
        let content = String::from_utf8(content).map_err(|error| {
            // Where it is wrong, and nothing of what is there.
            let (path, at) = (file.display(), error.utf8_error().valid_up_to());
            Failure::usage(format!("the pull secret {path} is no text from byte {at} on"))
        })?;
        secrets.push(PullSecret { file: file.display().to_string(), content });
    }
    Ok(secrets)
}

/// The image names of a list.
fn listed(path: &Path) -> Result<Vec<String>, Failure> {
    let usage = |why: String| Failure::Usage(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| usage(e.to_string()))?;
    let mut names = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let name = line.split('#').next().unwrap_or_default().trim();
        if name.is_empty() {
            continue;
        }
        let image: Image = name.parse().map_err(|e| usage(format!("line {}: {name:?}: {e}", number + 1)))?;
        names.push(image.to_string());
    }
    Ok(names)
}
