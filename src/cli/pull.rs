//! `larder pull`: images before anybody asks for them, by way of the running daemon.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Failure, run_async, settings};
use crate::admin::control::{self, Pull, PullImage, PullSecret};
use crate::config::{Environment, Settings};
use crate::credentials;
use crate::prepull::{self, BlobState, Event, SecretManifest, Summary};
use crate::reference::{Image, Platform};
use crate::support::size;

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
    /// Keep them: nothing of them is evicted before `larder unpin`
    #[arg(long)]
    pin: bool,
    /// What happens, one JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    arguments: &Arguments,
    file: Option<&Path>,
    environment: &Environment,
) -> Result<(), Failure> {
    let settings = settings(file, environment)?;
    let command = command(arguments, &settings)?;
    if command.images.is_empty() {
        return Err(Failure::Usage("which images? Name some, or a --file, or --manifests".to_owned()));
    }
    let mut screen = Screen::new(arguments.json);
    let done = run_async(control::pull(&settings.admin.socket, &command, |event| screen.show(&event)))?;
    done.map_err(|error| Failure::Failed(error.to_string()))?;
    match screen.failed {
        0 => Ok(()),
        failed => Err(Failure::Failed(format!(
            "{failed} of {} image(s) could not be fetched",
            command.images.len()
        ))),
    }
}

/// What the daemon is asked for.
fn command(arguments: &Arguments, settings: &Settings) -> Result<Pull, Failure> {
    let usage = |error: String| Failure::Usage(error);
    let mut paths = settings.credentials.pull_secrets.clone();
    paths.extend(arguments.pull_secrets.iter().cloned());
    let mut secrets = Vec::new();
    for (file, content) in credentials::pull_secret_files(&paths).map_err(|e| usage(e.to_string()))? {
        let content = String::from_utf8(content)
            .map_err(|_| usage(format!("the pull secret {} is not text", file.display())))?;
        secrets.push(PullSecret { file: file.display().to_string(), content });
    }
    let common: Vec<usize> = (0..secrets.len()).collect();
    let mut names: Vec<String> = arguments.images.iter().map(ToString::to_string).collect();
    for list in &arguments.lists {
        names.extend(listed(list)?);
    }
    let mut images: Vec<PullImage> =
        names.into_iter().map(|image| PullImage { image, secrets: common.clone() }).collect();
    for path in &arguments.manifests {
        for found in prepull::read(path).map_err(|e| usage(e.to_string()))? {
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

/// What is shown while it goes on: bars on a terminal, lines elsewhere, or JSON.
struct Screen {
    json: bool,
    bars: MultiProgress,
    of_blobs: HashMap<(String, String), ProgressBar>,
    failed: usize,
}

impl Screen {
    fn new(json: bool) -> Self {
        let shows = !json && std::io::stderr().is_terminal();
        let target = if shows { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        Self { json, bars, of_blobs: HashMap::new(), failed: 0 }
    }

    #[allow(clippy::print_stdout, reason = "what --json is for")]
    fn show(&mut self, event: &Event) {
        if let Event::Failed { .. } = event {
            self.failed += 1;
        }
        if self.json {
            println!("{}", serde_json::to_string(event).unwrap_or_default());
            return;
        }
        match event {
            Event::Resolved { image, digest, platforms } => {
                let platforms = platforms.join(", ");
                self.say(&format!("{image} is {digest} {platforms}"));
            }
            Event::Blob { image, digest, done_bytes, size_bytes, state } => {
                self.blob(image, digest, *done_bytes, *size_bytes, *state)
            }
            Event::Pulled { image, bytes, fetched_bytes, pinned, .. } => {
                self.clear(image);
                let pinned = if *pinned { ", pinned" } else { "" };
                let (all, fetched) = (size::shown(*bytes), size::shown(*fetched_bytes));
                self.say(&format!("{image} is here: {all}, {fetched} of it fetched{pinned}"));
            }
            Event::Failed { image, error } => {
                self.clear(image);
                self.say(&format!("{image} failed: {error}"));
            }
            Event::Summary(summary) => self.say(&last_words(summary)),
        }
    }

    fn blob(&mut self, image: &str, digest: &str, done: u64, size: Option<u64>, state: BlobState) {
        let key = (image.to_owned(), digest.to_owned());
        match state {
            BlobState::Present | BlobState::Fetched => {
                if let Some(bar) = self.of_blobs.remove(&key) {
                    bar.finish_and_clear();
                    self.bars.remove(&bar);
                }
            }
            BlobState::Fetching => {
                let bars = &self.bars;
                let bar = self.of_blobs.entry(key).or_insert_with(|| {
                    let bar = bars.add(ProgressBar::new(size.unwrap_or(0)));
                    let style =
                        "  {msg} {bar:30} {binary_bytes:>10} of {binary_total_bytes} {binary_bytes_per_sec}";
                    if let Ok(style) = ProgressStyle::with_template(style) {
                        bar.set_style(style);
                    }
                    bar.set_message(digest.chars().take(19).collect::<String>());
                    bar
                });
                bar.set_position(done);
            }
        }
    }

    fn clear(&mut self, image: &str) {
        let over: Vec<_> = self.of_blobs.keys().filter(|(of, _)| of == image).cloned().collect();
        for key in over {
            if let Some(bar) = self.of_blobs.remove(&key) {
                bar.finish_and_clear();
                self.bars.remove(&bar);
            }
        }
    }

    #[allow(clippy::print_stdout, reason = "what this command is for")]
    fn say(&self, line: &str) {
        self.bars.suspend(|| println!("{line}"));
    }
}

fn last_words(summary: &Summary) -> String {
    let Summary { pulled, failed, bytes, shared_bytes, fetched_bytes } = *summary;
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    format!(
        "{pulled} image(s) here{failed}: {}; {} fetched, {} were here, {} shared between these images",
        size::shown(bytes),
        size::shown(fetched_bytes),
        size::shown(bytes.saturating_sub(fetched_bytes).saturating_sub(shared_bytes)),
        size::shown(shared_bytes)
    )
}
