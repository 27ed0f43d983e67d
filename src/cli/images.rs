//! `larder ls`, `rm`, `unpin`, `gc`: the images that are here, asked of the running daemon.

use std::path::Path;

use clap::Args;

use super::{Failure, ago, ask, print_json, settings};
use crate::admin::control::{CollectGarbage, ImageRow, ListImages, Remove, Unpin};
use crate::config::Environment;
use crate::reference::Image;
use crate::support::clock::Clock;
use crate::support::size;

/// What `ls` takes.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Only names that contain this
    part: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What `rm` and `unpin` take.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// An image name as in a pod: registry.corp/team/app:v1
    image: Image,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What `gc` takes.
#[derive(Debug, Args)]
pub(super) struct Gc {
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn list(arguments: &Ls, file: Option<&Path>, environment: &Environment) -> Result<(), Failure> {
    let mut rows = ask(&settings(file, environment)?, &ListImages {})?;
    rows.retain(|row| arguments.part.as_ref().is_none_or(|part| row.image.contains(part.as_str())));
    if arguments.json {
        return print_json(&rows);
    }
    if rows.is_empty() {
        println!("no image is here");
        return Ok(());
    }
    let now = Clock::system().now();
    let width = rows.iter().map(|row| row.image.len()).max().unwrap_or(0).max(5);
    println!("{:<width$}  {:>10}  {:<12}  {:<7}  PLATFORMS", "IMAGE", "SIZE", "CONFIRMED", "PINNED");
    for ImageRow { image, bytes, confirmed_at, platforms, pinned, .. } in &rows {
        let confirmed = confirmed_at.map_or("-".to_owned(), |at| ago(at.age_at(now)));
        let platforms: Vec<&str> =
            platforms.iter().map(|name| if name.is_empty() { "(one)" } else { name.as_str() }).collect();
        let platforms =
            if platforms.is_empty() { "(not all of any)".to_owned() } else { platforms.join(" ") };
        let pinned = if *pinned { "yes" } else { "" };
        println!("{image:<width$}  {:>10}  {confirmed:<12}  {pinned:<7}  {platforms}", size::shown(*bytes));
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn remove(
    arguments: &Named,
    file: Option<&Path>,
    environment: &Environment,
) -> Result<(), Failure> {
    let image = arguments.image.to_string();
    let removed = ask(&settings(file, environment)?, &Remove { image: image.clone() })?;
    if arguments.json {
        return print_json(&removed);
    }
    if removed.tags + removed.pins + removed.blobs == 0 {
        return Err(Failure::Failed(format!("{image} is not here")));
    }
    println!("{image} removed: {} blobs, {}", removed.blobs, size::shown(removed.bytes));
    Ok(())
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn unpin(
    arguments: &Named,
    file: Option<&Path>,
    environment: &Environment,
) -> Result<(), Failure> {
    let image = arguments.image.to_string();
    let done = ask(&settings(file, environment)?, &Unpin { image: image.clone() })?;
    if arguments.json {
        return print_json(&done);
    }
    if done.unpinned == 0 {
        return Err(Failure::Failed(format!("{image} is not pinned")));
    }
    println!("{image} may be evicted again");
    Ok(())
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn make_room(
    arguments: &Gc,
    file: Option<&Path>,
    environment: &Environment,
) -> Result<(), Failure> {
    let done = ask(&settings(file, environment)?, &CollectGarbage {})?;
    if arguments.json {
        return print_json(&done);
    }
    println!("{} freed", size::shown(done.freed_bytes));
    Ok(())
}
