//! What the commands for one image in the store share: its name, and the daemon's reply as JSON.

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::output::{print_json, print_line};
use super::run_async::ask_daemon;
use crate::admin::control::ControlCommand;
use crate::reference::Image;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct ImageArguments {
    /// An image name as in a pod: registry.corp/team/app:v1
    image: Image,
    /// As JSON
    #[arg(long)]
    json: bool,
}

impl ImageArguments {
    /// Sends the command of an image to the daemon, and prints its reply if that is wanted as JSON. What `said` makes
    /// of the name and the reply is printed otherwise.
    ///
    /// # Errors
    /// No daemon runs, or it refuses; what `said` says.
    pub(super) fn run<C: ControlCommand>(
        &self,
        context: &Context,
        command: impl FnOnce(String) -> C,
        said: impl FnOnce(&str, &C::Reply) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        let image = self.image.to_string();
        let reply = ask_daemon(&context.daemon_socket()?, &command(image.clone()))?;
        if self.json {
            print_json(&reply)?;
        }
        let said = said(&image, &reply)?;
        if self.json { Ok(()) } else { print_line(&said) }
    }
}
