//! `larder pull`: images ahead of their pods, by way of the running daemon.

mod screen;

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::Args;

use super::context::Context;
use super::credentials::pull_secrets;
use super::failure::Failure;
use super::output::warn;
use super::run_async::run_async;
use crate::admin::control::{self, Pull, PullImage, PullSecret};
use crate::prepull::{self, FoundSecret};
use crate::reference::{Image, Platform};
use crate::support::open_file;
use screen::Screen;

/// Bytes of a list of images at most: a hundred thousand names.
const LIST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Image names as in a pod: nginx, registry.corp/team/app:v1
    images: Vec<Image>,
    /// A file with an image name a line; # begins a comment
    #[arg(long = "file", value_name = "LIST")]
    lists: Vec<PathBuf>,
    /// Kubernetes manifests of any kind, a file or a directory: every image of every container and image volume, with
    /// the pull secrets that are there too
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
    let (command, problems) = command(arguments, settings.credentials.pull_secrets)?;
    problems.iter().for_each(|problem| warn(problem));
    if command.images.is_empty() && !problems.is_empty() {
        return Err(Failure::failed("no image is left to fetch"));
    }
    if command.images.is_empty() {
        return Err(Failure::usage("no images: name some, or give --file or --manifests"));
    }
    let mut screen = Screen::new(arguments.json);
    let pull = async || control::pull(&settings.admin.socket, &command, |event| screen.show(&event)).await;
    let done = run_async(pull)?;
    done.map_err(Failure::caused)?;
    if let Some(failure) = screen.ended() {
        return Err(failure);
    }
    let (failed, all) = (screen.failed(), command.images.len());
    let of_manifests = match problems.len() {
        0 => None,
        count => Some(format!("{count} document(s) or name(s) in the manifests could not be used")),
    };
    let of_images = (failed > 0).then(|| format!("{failed} of {all} image(s) could not be fetched"));
    let why: Vec<String> = of_images.into_iter().chain(of_manifests).collect();
    if why.is_empty() { Ok(()) } else { Err(Failure::failed(why.join("; "))) }
}

/// The command for the daemon, and what in the manifests cannot be used; `configured` are the pull secrets of the
/// configuration.
fn command(arguments: &Arguments, configured: Vec<PathBuf>) -> Result<(Pull, Vec<String>), Failure> {
    let mut paths = configured;
    paths.extend(arguments.pull_secrets.iter().cloned());
    let mut secrets = pull_secrets(&paths)?;
    let common: Vec<usize> = (0..secrets.len()).collect();
    let mut names: Vec<String> = arguments.images.iter().map(ToString::to_string).collect();
    for list in &arguments.lists {
        names.extend(listed(list)?);
    }
    let mut images: Vec<PullImage> =
        names.into_iter().map(|image| PullImage { image, secrets: common.clone() }).collect();
    let mut problems = Vec::new();
    for path in &arguments.manifests {
        let (all, bad) = prepull::read_each(path);
        problems.extend(bad.iter().map(ToString::to_string));
        for found in all {
            let mut own = Vec::new();
            for FoundSecret { path, content } in found.secrets {
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
    let pull =
        Pull { images, secrets, platforms, all_platforms: arguments.all_platforms, pin: arguments.pin };
    Ok((pull, problems))
}

/// The image names of a list.
fn listed(path: &Path) -> Result<Vec<String>, Failure> {
    let usage = |why: String| Failure::Usage(format!("{}: {why}", path.display()));
    let read = || open_file::text(open_file::read_at_most(File::open(path)?, LIST_BYTES_MAX)?);
    let text = read().map_err(|e| usage(e.to_string()))?;
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
