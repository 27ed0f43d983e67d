//! `larder ls [PART]`: the images in the store, asked of the running daemon.

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use super::output::{print_json, print_line, shown_duration};
use super::run_async::ask_daemon;
use crate::admin::control::{ImageRow, ListImages};
use crate::support::clock::{Clock, Timestamp};
use crate::support::size;

/// What the command takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only names that contain this
    part: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let mut rows = ask_daemon(&context.daemon_socket()?, &ListImages {})?;
    rows.retain(|row| arguments.part.as_ref().is_none_or(|part| row.image.contains(part.as_str())));
    if arguments.json {
        return print_json(&rows);
    }
    print_line(&table(&rows, Clock::system().now()).join("\n"))
}

/// The lines that a person is shown.
fn table(rows: &[ImageRow], now: Timestamp) -> Vec<String> {
    if rows.is_empty() {
        return vec!["no image is in the store".to_owned()];
    }
    let width = rows.iter().map(|row| row.image.len()).max().unwrap_or(0).max(5);
    let mut lines =
        vec![format!("{:<width$}  {:>10}  {:<12}  {:<7}  PLATFORMS", "IMAGE", "SIZE", "CONFIRMED", "PINNED")];
    for ImageRow { image, bytes, confirmed_at, platforms, pinned, .. } in rows {
        let confirmed = confirmed_at.map_or("-".to_owned(), |at| shown_duration(at.age_at(now)));
        let platforms = match &platforms[..] {
            [] => "(incomplete)".to_owned(),
            // Its platform stands in its config alone, which is not read for a list.
            [single] if single.is_empty() => "(single image)".to_owned(),
            names => {
                let shown =
                    |name: &String| if name.is_empty() { "(no platform)".to_owned() } else { name.clone() };
                names.iter().map(shown).collect::<Vec<_>>().join(" ")
            }
        };
        let pinned = if *pinned { "yes" } else { "" };
        let size = size::shown(*bytes);
        lines.push(format!("{image:<width$}  {size:>10}  {confirmed:<12}  {pinned:<7}  {platforms}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_is_not_complete_for_any_platform_says_so() {
        let row = |image: &str, platforms: &[&str], pinned| ImageRow {
            image: image.to_owned(),
            digest: String::new(),
            confirmed_at: Some(Timestamp(1_000)),
            bytes: 2_048,
            platforms: platforms.iter().map(|name| (*name).to_owned()).collect(),
            pinned,
        };
        let rows = [row("a", &[], false), row("reg.test/b:1", &["linux/arm64", ""], true)];
        let lines = table(&rows, Timestamp(1_090));
        assert_eq!(lines[1], "a                2.0 KiB  1m 30s                 (incomplete)");
        assert_eq!(lines[2], "reg.test/b:1     2.0 KiB  1m 30s        yes      linux/arm64 (no platform)");
        let lines = table(&[row("a", &[""], false)], Timestamp(1_090));
        assert!(lines[1].ends_with(" (single image)"), "{lines:?}");
        assert_eq!(table(&[], Timestamp(0)), ["no image is in the store"]);
    }
}
