//! The results as Markdown and as a chart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

use crate::support::machine;

/// The store that growth is counted from.
const GROWS_FROM: usize = 10_000;
/// What latency and processor time of a request may grow by.
const GROWTH_MAX: f64 = 1.2;
/// Bytes of memory for each blob more, at most, and milliseconds of `status`, in every column.
const MEMORY_BYTES_MAX: f64 = 150.0;
const STATUS_MILLISECONDS_MAX: f64 = 50.0;
/// The memory's row.
pub(crate) const MEMORY: &str = "memory when idle (MiB)";

/// A row for each figure, a column for each size of the store.
pub(crate) struct Table {
    sizes: Vec<usize>,
    rows: Vec<(String, BTreeMap<usize, f64>)>,
}

impl Table {
    pub(crate) fn new(sizes: &[usize]) -> Self {
        Self { sizes: sizes.to_owned(), rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, what: &str, size: usize, value: f64) {
        println!("{size:>9} {what:<64} {value:.3}");
        match self.rows.iter_mut().find(|(row, _)| row == what) {
            Some((_, values)) => drop(values.insert(size, value)),
            None => self.rows.push((what.to_owned(), BTreeMap::from([(size, value)]))),
        }
    }

    pub(crate) fn write(&self) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
        fs::write(directory.join("SCALE.md"), self.markdown()).unwrap();
        fs::write(directory.join("scale.json"), self.json()).unwrap();
        self.draw(&directory.join("scale.svg"));
    }

    /// The largest store against that of [`GROWS_FROM`] blobs, or the smallest.
    fn growth(&self, values: &BTreeMap<usize, f64>) -> Option<f64> {
        let least = values.get(&GROWS_FROM).or_else(|| values.get(self.sizes.first()?))?;
        let most = values.get(self.sizes.last()?)?;
        (*least > 0.0).then(|| most / least)
    }

    /// What the row should be, and whether it is.
    fn verdict(&self, what: &str, values: &BTreeMap<usize, f64>) -> String {
        let said =
            |goal: &str, is_met: bool| format!("{goal}: {}", if is_met { "met" } else { "**missed**" });
        let is_request = what.contains(" blob") && (what.starts_with("a warm") || what.starts_with("a cold"));
        if is_request && !what.contains("just then") {
            return self
                .growth(values)
                .map_or(String::new(), |growth| said("at most 1.2 times", growth <= GROWTH_MAX));
        }
        if what.contains("status") {
            return said("at most 50 ms", values.values().all(|ms| *ms <= STATUS_MILLISECONDS_MAX));
        }
        match self.bytes_for_each(what, values) {
            Some(bytes) => said("at most 150 bytes a blob", bytes <= MEMORY_BYTES_MAX),
            None => String::new(),
        }
    }

    /// Bytes of memory for each blob more between the first column and the last.
    fn bytes_for_each(&self, what: &str, values: &BTreeMap<usize, f64>) -> Option<f64> {
        let (first, last) = (self.sizes.first()?, self.sizes.last()?);
        let more = (last - first) as f64;
        (what == MEMORY && more > 0.0)
            .then(|| Some((values.get(last)? - values.get(first)?) * f64::from(1 << 20) / more))?
    }

    fn markdown(&self) -> String {
        let mut text = String::from("# A store of many blobs\n\n");
        let _ = writeln!(
            text,
            "Written by `make bench-scale` on {}: {}.\nOne blob in ten is the manifest of a tag, up to 100,000 tags.\nEach request is one of 2,000 over one connection; medians. Growth is the last column of figures against that of 10,000\nblobs.\n",
            machine::today(),
            machine::describe()
        );
        let sizes: Vec<String> = self.sizes.iter().map(|size| format!("{size} blobs")).collect();
        let _ = writeln!(text, "| {} | {} | Growth | Goal |", machine::under(), sizes.join(" | "));
        let _ = writeln!(text, "| --- |{} --- | --- |", " --- |".repeat(sizes.len()));
        for (what, values) in &self.rows {
            let cell =
                |size: &usize| values.get(size).map_or("–".to_owned(), |value| format!("{value:.3}"));
            let cells: Vec<String> = self.sizes.iter().map(cell).collect();
            let growth = self.growth(values).map_or("–".to_owned(), |growth| format!("{growth:.2}"));
            let _ = writeln!(
                text,
                "| {what} | {} | {growth} | {} |",
                cells.join(" | "),
                self.verdict(what, values)
            );
        }
        let memory = self.rows.iter().find(|(what, _)| what == MEMORY);
        if let Some(bytes) = memory.and_then(|(what, values)| self.bytes_for_each(what, values)) {
            let _ = writeln!(text, "\nMemory grows by {bytes:.0} bytes for each blob, its tags included.");
        }
        text.push_str("\n![What grows with the number of blobs](scale.svg)\n");
        text
    }

    fn json(&self) -> String {
        let rows: Vec<serde_json::Value> = self
            .rows
            .iter()
            .map(|(what, values)| {
                let goal = self.verdict(what, values);
                serde_json::json!({"what": what, "values": values, "growth": self.growth(values), "goal": goal})
            })
            .collect();
        let (date, machine) = (machine::today(), machine::describe());
        format!("{:#}\n", serde_json::json!({"date": date, "machine": machine, "rows": rows}))
    }

    /// The growth of each row as a bar.
    fn draw(&self, path: &Path) {
        let rows: Vec<(&str, f64)> = self
            .rows
            .iter()
            .filter_map(|(what, values)| Some((what.as_str(), self.growth(values)?)))
            .collect();
        let height = 60 + 26 * rows.len() as u32;
        let area = SVGBackend::new(path, (900, height)).into_drawing_area();
        area.fill(&WHITE).unwrap();
        let style = ("sans-serif", 14).into_font().color(&BLACK);
        let title = "The largest store against the smallest, logarithmic; the line is 1, that is no growth";
        area.draw(&Text::new(title, (20, 12), style.clone())).unwrap();
        // From a tenth to a thousand times.
        let x = |growth: f64| 420 + ((growth.clamp(0.1, 1_000.0).log10() + 1.0) * 110.0) as i32;
        for (n, (what, growth)) in rows.iter().enumerate() {
            let top = 40 + 26 * n as i32;
            area.draw(&Text::new(*what, (20, top + 2), style.clone())).unwrap();
            let color = if *growth <= 1.2 { RGBColor(46, 125, 50) } else { RGBColor(198, 120, 40) };
            let (from, to) = (x(1.0).min(x(*growth)), x(1.0).max(x(*growth)));
            area.draw(&Rectangle::new([(from, top), (to, top + 16)], color.filled())).unwrap();
            area.draw(&Text::new(format!("{growth:.2}"), (to + 6, top + 2), style.clone())).unwrap();
        }
        area.draw(&PathElement::new([(x(1.0), 34), (x(1.0), height as i32 - 10)], BLACK.stroke_width(2)))
            .unwrap();
        area.present().unwrap();
    }
}
