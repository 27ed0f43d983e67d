//! The results as Markdown, JSON and a chart.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use plotters::prelude::*;

use crate::LINK_RATE;
use crate::shared::machine;

/// Pods of one number of images: the seconds of each round.
pub(crate) struct Row {
    images: usize,
    /// Cold without the watch, cold with it, warm without it, warm with it.
    seconds: [Vec<f64>; 4],
}

const COLUMNS: [&str; 4] =
    ["cold, without the watch", "cold, with the watch", "warm, without the watch", "warm, with the watch"];

impl Row {
    pub(crate) fn new(images: usize) -> Self {
        Self { images, seconds: Default::default() }
    }

    pub(crate) fn add(&mut self, watch: bool, cold: Duration, warm: Duration) {
        let at = usize::from(watch);
        self.seconds[at].push(cold.as_secs_f64());
        self.seconds[2 + at].push(warm.as_secs_f64());
        println!("{} images, watch {watch}: cold {cold:.2?}, warm {warm:.2?}", self.images);
    }

    fn medians(&self) -> [f64; 4] {
        self.seconds.clone().map(|mut seconds| {
            seconds.sort_by(f64::total_cmp);
            seconds[seconds.len() / 2]
        })
    }
}

/// All of them.
pub(crate) struct Table {
    mib: usize,
    rounds: usize,
    rows: Vec<Row>,
}

impl Table {
    pub(crate) fn new(mib: usize, rounds: usize) -> Self {
        Self { mib, rounds, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, row: Row) {
        let [without, with, _, warm] = row.medians();
        let link = self.link(row.images);
        println!(
            "{} images: cold {without:.2} s, with the watch {with:.2} s, {:.2} of the goal ({:.2} s)",
            row.images,
            with / goal(warm, link),
            goal(warm, link)
        );
        self.rows.push(row);
    }

    /// The seconds that the link needs for the bytes of a pod.
    fn link(&self, images: usize) -> f64 {
        ((images * self.mib) << 20) as f64 / LINK_RATE
    }

    pub(crate) fn write(&self) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
        fs::write(directory.join("PODS.md"), self.markdown()).unwrap();
        fs::write(directory.join("pods.json"), self.json()).unwrap();
        self.draw(&directory.join("pods.svg"));
    }

    fn markdown(&self) -> String {
        let mut text = String::from("# From bound to the last image\n\n");
        let _ = writeln!(
            text,
            "Written by `make bench` on {}: {}.\nMedians of {} rounds in turns. A scripted kubelet starts a pod (sandbox\n1 s, then one image after the other, each unpacked at 100 MB/s) of images of {} MiB in three layers. The registry is\n50 ms away and sends 20 MB/s a connection, 100 MB/s in all. Seconds; *goal* is 1.2 times the warm pod with the watch, or\nwhat the link needs for the bytes, whichever is longer.\n",
            machine::today(),
            machine::describe(),
            self.rounds,
            self.mib
        );
        let _ = writeln!(
            text,
            "| Images ({}) | {} | link | cold of goal |",
            machine::under(),
            COLUMNS.join(" | ")
        );
        let _ = writeln!(text, "| --- | --- | --- | --- | --- | --- | --- |");
        for row in &self.rows {
            let medians = row.medians();
            let cells = medians.map(|seconds| format!("{seconds:.2}")).join(" | ");
            let link = self.link(row.images);
            let share = medians[1] / goal(medians[3], link);
            let _ = writeln!(text, "| {} | {cells} | {link:.2} | {share:.2} |", row.images);
        }
        text.push_str("\n![Seconds from bound to the last image](pods.svg)\n");
        text
    }

    fn json(&self) -> String {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let columns: serde_json::Map<_, _> = COLUMNS
                    .iter()
                    .zip(&row.seconds)
                    .map(|(name, seconds)| ((*name).to_owned(), serde_json::json!(seconds)))
                    .collect();
                serde_json::json!({"images": row.images, "link": self.link(row.images), "seconds": columns})
            })
            .collect();
        let text = serde_json::json!({"date": machine::today(), "machine": machine::describe(), "image_mib": self.mib, "rows": rows});
        serde_json::to_string_pretty(&text).unwrap() + "\n"
    }

    /// A bar for each column of each pod.
    fn draw(&self, path: &Path) {
        let colors =
            [RGBColor(198, 120, 40), RGBColor(46, 125, 50), RGBColor(160, 160, 160), RGBColor(110, 110, 110)];
        let height = 50 + 26 * (self.rows.len() * 5) as u32;
        let area = SVGBackend::new(path, (900, height)).into_drawing_area();
        area.fill(&WHITE).unwrap();
        let style = ("sans-serif", 14).into_font().color(&BLACK);
        let most = self.rows.iter().flat_map(Row::medians).fold(1.0, f64::max);
        area.draw(&Text::new("Seconds from bound to the last image", (20, 12), style.clone())).unwrap();
        let mut top = 40;
        for row in &self.rows {
            for ((name, color), seconds) in COLUMNS.iter().zip(colors).zip(row.medians()) {
                let to = 300 + (seconds / most * 520.0) as i32;
                let label = format!("{} images, {name}", row.images);
                area.draw(&Text::new(label, (20, top + 2), style.clone())).unwrap();
                area.draw(&Rectangle::new([(300, top), (to, top + 18)], color.filled())).unwrap();
                area.draw(&Text::new(format!("{seconds:.2}"), (to + 6, top + 2), style.clone())).unwrap();
                top += 26;
            }
            top += 26;
        }
        area.present().unwrap();
    }
}

fn goal(warm: f64, link: f64) -> f64 {
    (1.2 * warm).max(link)
}
