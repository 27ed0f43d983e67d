//! What is shown while images are fetched.

use std::collections::HashMap;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::failure::Failure;
use crate::cli::output::print_line;
use crate::prepull::{BlobState, Event, Summary};
use crate::support::size;

/// Characters of a digest beside its bar: the algorithm and twelve digits.
const DIGEST_SHOWN: usize = 19;

/// Shows events: bars on a terminal, lines elsewhere, or JSON.
pub(super) struct Screen {
    json: bool,
    bars: MultiProgress,
    of_blobs: HashMap<(String, String), ProgressBar>,
    failed: usize,
    /// Why nothing is shown any more. The images are fetched nevertheless.
    unshown: Option<Failure>,
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        let shows = !json && std::io::stderr().is_terminal();
        let target = if shows { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        Self { json, bars, of_blobs: HashMap::new(), failed: 0, unshown: None }
    }

    /// Shows an event.
    pub(super) fn show(&mut self, event: &Event) {
        if let Event::Failed { .. } = event {
            self.failed += 1;
        }
        if self.json {
            return self.say(&serde_json::to_string(event).unwrap_or_default());
        }
        match event {
            Event::Resolved { image, digest, platforms, foreign_layers } => {
                let platforms = platforms.join(", ");
                self.say(&format!("{image} is {digest} {platforms}"));
                if *foreign_layers > 0 {
                    self.say(&format!(
                        "{image} has {foreign_layers} foreign layer(s): they are left out, and runtimes fetch them from elsewhere"
                    ));
                }
            }
            Event::Blob { image, digest, done_bytes, size_bytes, state } => {
                self.blob(image, digest, *done_bytes, *size_bytes, *state)
            }
            Event::Pulled { image, bytes, fetched_bytes, pinned, .. } => {
                self.clear(image);
                let pinned = if *pinned { ", pinned" } else { "" };
                let (all, fetched) = (size::shown(*bytes), size::shown(*fetched_bytes));
                self.say(&format!("{image} is in the store: {all}, {fetched} of it fetched{pinned}"));
            }
            Event::Failed { image, error } => {
                self.clear(image);
                self.say(&format!("{image} failed: {error}"));
            }
            Event::Summary(summary) => self.say(&summary_line(summary)),
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
                    bar.set_message(digest.chars().take(DIGEST_SHOWN).collect::<String>());
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

    /// Images that could not be fetched.
    pub(super) fn failed(&self) -> usize {
        self.failed
    }

    /// Why what was to be shown could not be.
    pub(super) fn ended(&mut self) -> Option<Failure> {
        self.unshown.take()
    }

    fn say(&mut self, line: &str) {
        if self.unshown.is_none() {
            self.unshown = self.bars.suspend(|| print_line(line)).err();
        }
    }
}

fn summary_line(summary: &Summary) -> String {
    let Summary { pulled, failed, bytes, shared_bytes, fetched_bytes } = *summary;
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    format!(
        "{pulled} image(s) in the store{failed}: {}; {} fetched, {} present before, {} shared between these images",
        size::shown(bytes),
        size::shown(fetched_bytes),
        size::shown(bytes.saturating_sub(fetched_bytes).saturating_sub(shared_bytes)),
        size::shown(shared_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_bytes_are_said_neither_to_be_fetched_nor_to_have_been_there() {
        let summary =
            Summary { pulled: 2, failed: 1, bytes: 3_072, shared_bytes: 1_024, fetched_bytes: 1_024 };
        assert_eq!(
            summary_line(&summary),
            "2 image(s) in the store, 1 failed: 3.0 KiB; 1.0 KiB fetched, 1.0 KiB present before, \
             1.0 KiB shared between these images"
        );
    }
}
