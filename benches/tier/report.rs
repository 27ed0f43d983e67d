//! The results as Markdown, JSON and a chart.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

use crate::support::machine;

/// One pull.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    /// Processor seconds of the daemon for a gigabyte, storing and sharing included.
    pub(crate) cpu_per_gb: f64,
    /// Bytes of the registry, by the bytes of the image.
    pub(crate) from_registry: f64,
}

/// A row for each kind of node.
pub(crate) struct Report {
    mib: usize,
    layers: usize,
    rows: Vec<(String, Vec<Measured>)>,
}

impl Report {
    pub(crate) fn new(mib: usize, layers: usize) -> Self {
        Self { mib, layers, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, what: &str, measured: Measured) {
        println!("{what:<40} {measured:.3?}");
        match self.rows.iter_mut().find(|(row, _)| row == what) {
            Some((_, all)) => all.push(measured),
            None => self.rows.push((what.to_owned(), vec![measured])),
        }
    }

    pub(crate) fn print(&self) {
        println!("{}", self.markdown());
    }

    pub(crate) fn write(&self, directory: &Path) {
        fs::write(directory.join("TIER.md"), self.markdown()).unwrap();
        fs::write(directory.join("tier.json"), self.json()).unwrap();
        self.draw(&directory.join("tier.svg"));
    }

    fn medians(&self) -> Vec<(&str, Measured)> {
        self.rows
            .iter()
            .map(|(what, all)| {
                let of = |field: fn(&Measured) -> f64| {
                    let mut values: Vec<f64> = all.iter().map(field).collect();
                    values.sort_by(f64::total_cmp);
                    values[values.len() / 2]
                };
                let median = Measured {
                    seconds: of(|one| one.seconds),
                    cpu_per_gb: of(|one| one.cpu_per_gb),
                    from_registry: of(|one| one.from_registry),
                };
                (what.as_str(), median)
            })
            .collect()
    }

    fn markdown(&self) -> String {
        let mut text = String::from("# A new node with a shared tier\n\n");
        let _ = writeln!(
            text,
            "Written by `make bench` on {}: {}.\nAn image of {} MiB in {} layers, three at a time, from a registry that\nanswers after 50 ms and sends 20 MB/s in all; the tier is SeaweedFS on loopback, which shares the processors. Medians of\n{} images.\n",
            machine::today(),
            machine::describe(),
            self.mib,
            self.layers,
            self.rows.first().map_or(0, |(_, all)| all.len())
        );
        let _ = writeln!(
            text,
            "| {} | s | CPU (s/GB) | bytes from the registry, times the image |\n| --- | --- | --- | --- |",
            machine::under()
        );
        let medians = self.medians();
        for (what, row) in &medians {
            let Measured { seconds, cpu_per_gb, from_registry } = row;
            let _ = writeln!(text, "| {what} | {seconds:.2} | {cpu_per_gb:.2} | {from_registry:.3} |");
        }
        if let [(_, without), (_, first), (_, new)] = medians.as_slice() {
            let _ = writeln!(
                text,
                "\nWriting to the tier costs a cold pull {:.1} % of its time (goal: at most 3 %) and {:.2} s of processor a GB (goal: at\nmost 0.40). A new node is {:.1} times as fast with the tier.\n\n![Seconds of each pull](tier.svg)",
                (first.seconds / without.seconds - 1.0) * 100.0,
                first.cpu_per_gb - without.cpu_per_gb,
                without.seconds / new.seconds
            );
        }
        text
    }

    fn json(&self) -> String {
        let rows: Vec<serde_json::Value> = self
            .rows
            .iter()
            .map(|(what, all)| {
                let of = |field: fn(&Measured) -> f64| all.iter().map(field).collect::<Vec<f64>>();
                serde_json::json!({
                    "what": what,
                    "seconds": of(|one| one.seconds),
                    "cpu_seconds_per_gb": of(|one| one.cpu_per_gb),
                    "times_the_image_from_the_registry": of(|one| one.from_registry),
                })
            })
            .collect();
        let (date, machine) = (machine::today(), machine::describe());
        let all = serde_json::json!({"date": date, "machine": machine, "mib": self.mib, "layers": self.layers, "rows": rows});
        format!("{all:#}\n")
    }

    /// The seconds of each kind of node as a bar, each pull as a tick on it.
    fn draw(&self, path: &Path) {
        let height = 70 + 44 * self.rows.len() as u32;
        let area = SVGBackend::new(path, (900, height)).into_drawing_area();
        area.fill(&WHITE).unwrap();
        let style = ("sans-serif", 14).into_font().color(&BLACK);
        let title = format!("Seconds for an image of {} MiB from a registry at 20 MB/s and 50 ms", self.mib);
        area.draw(&Text::new(title, (20, 12), style.clone())).unwrap();
        let longest = self.rows.iter().flat_map(|(_, all)| all).map(|one| one.seconds).fold(0.1, f64::max);
        let x = |seconds: f64| 300 + (seconds / longest * 500.0) as i32;
        for (n, ((what, all), (_, median))) in self.rows.iter().zip(self.medians()).enumerate() {
            let top = 50 + 44 * n as i32;
            area.draw(&Text::new(what.as_str(), (20, top + 6), style.clone())).unwrap();
            let color = RGBColor(46, 125, 50);
            area.draw(&Rectangle::new([(x(0.0), top), (x(median.seconds), top + 26)], color.filled()))
                .unwrap();
            for one in all {
                let at = x(one.seconds);
                area.draw(&PathElement::new([(at, top - 3), (at, top + 29)], BLACK.stroke_width(1))).unwrap();
            }
            let text = format!("{:.2}", median.seconds);
            area.draw(&Text::new(text, (x(longest) + 14, top + 6), style.clone())).unwrap();
        }
        area.present().unwrap();
    }
}
