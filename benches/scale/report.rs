//! The results as Markdown and as a chart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

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
        self.draw(&directory.join("scale.svg"));
    }

    /// The largest store against the smallest.
    fn growth(&self, values: &BTreeMap<usize, f64>) -> Option<f64> {
        let least = values.get(self.sizes.first()?)?;
        let most = values.get(self.sizes.last()?)?;
        (*least > 0.0).then(|| most / least)
    }

    fn markdown(&self) -> String {
        let mut text = String::from("# A store of many blobs\n\n");
        let today = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let _ = writeln!(
            text,
            "Written by `make bench-scale` on {}, {cores} cores. One blob in ten is the manifest of a tag, up to 100,000 tags.\nEach request is one of 400 over one connection; medians. Growth is the last column of figures against the first.\n",
            &today[..10]
        );
        let sizes: Vec<String> = self.sizes.iter().map(|size| format!("{size} blobs")).collect();
        let _ = writeln!(text, "| | {} | Growth |", sizes.join(" | "));
        let _ = writeln!(text, "| --- |{} --- |", " --- |".repeat(sizes.len()));
        for (what, values) in &self.rows {
            let cell =
                |size: &usize| values.get(size).map_or("–".to_owned(), |value| format!("{value:.3}"));
            let cells: Vec<String> = self.sizes.iter().map(cell).collect();
            let growth = self.growth(values).map_or("–".to_owned(), |growth| format!("{growth:.2}"));
            let _ = writeln!(text, "| {what} | {} | {growth} |", cells.join(" | "));
        }
        text.push_str("\n![What grows with the number of blobs](scale.svg)\n");
        text
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
