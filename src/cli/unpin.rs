//! `larder unpin IMAGE`: ends the pins of an image, so that it may be evicted.

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::output::print_json;
use super::run_async::ask_daemon;
use crate::admin::control::Unpin;
use crate::reference::Image;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// An image name as in a pod: registry.corp/team/app:v1
    image: Image,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[allow(clippy::print_stdout, reason = "what this command is for")]
pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let image = arguments.image.to_string();
    let done = ask_daemon(&context.settings()?, &Unpin { image: image.clone() })?;
    if arguments.json {
        print_json(&done)?;
    }
    if done.unpinned == 0 {
        return Err(Failure::failed(format!("{image} is not pinned")));
    }
    if arguments.json {
        return Ok(());
    }
    println!("{image} is not pinned any more and may be evicted");
    Ok(())
}
