//! The results as Markdown, JSON and charts.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::support::chart::{self, Panel, figure};
use crate::support::machine;

/// What was measured while one thing grew.
pub(crate) struct Part {
    /// The name of its chart.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// How it was measured.
    pub(crate) how: String,
    /// What grows.
    pub(crate) x: &'static str,
    pub(crate) columns: &'static [&'static str],
    /// The columns that the chart shows.
    pub(crate) plotted: &'static [usize],
    pub(crate) rows: Vec<Row>,
}

/// One size of it.
pub(crate) struct Row {
    /// What it is a row of, where there are several kinds.
    pub(crate) of: &'static str,
    pub(crate) x: usize,
    pub(crate) values: Vec<f64>,
}

impl Part {
    pub(crate) fn add(&mut self, of: &'static str, x: usize, values: Vec<f64>) {
        let shown: Vec<String> = self
            .columns
            .iter()
            .zip(&values)
            .map(|(column, value)| format!("{column} {}", figure(*value)))
            .collect();
        println!("{}: {of} {x}: {}", self.name, shown.join(", "));
        self.rows.push(Row { of, x, values });
    }

    fn kinds(&self) -> Vec<&'static str> {
        let mut kinds: Vec<_> = self.rows.iter().map(|row| row.of).collect();
        kinds.dedup();
        kinds
    }

    fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n{}\n\n", self.title, self.how);
        let _ = writeln!(text, "| {} | {} | {} |", machine::under(), self.x, self.columns.join(" | "));
        let _ = writeln!(text, "| --- | --- |{}", " --- |".repeat(self.columns.len()));
        for Row { of, x, values } in &self.rows {
            let values: Vec<_> = values.iter().map(|value| figure(*value)).collect();
            let _ = writeln!(text, "| {of} | {x} | {} |", values.join(" | "));
        }
        let _ = writeln!(text, "\n![{}](growth-{}.svg)\n", self.title, self.name);
        text
    }

    fn json(&self) -> serde_json::Value {
        let rows = self.rows.iter().map(|Row { of, x, values }| {
            let values: serde_json::Map<_, _> = self
                .columns
                .iter()
                .zip(values)
                .map(|(name, value)| ((*name).to_owned(), (*value).into()))
                .collect();
            serde_json::json!({"of": of, (self.x): x, "values": values})
        });
        serde_json::json!({"name": self.name, "rows": rows.collect::<Vec<_>>()})
    }

    fn draw(&self, directory: &Path) {
        let panel = |column: &usize| {
            let line = |of: &'static str| {
                let rows = self.rows.iter().filter(|row| row.of == of);
                (of.to_owned(), rows.map(|row| (row.x as f64, row.values[*column])).collect::<Vec<_>>())
            };
            let lines = self.kinds().into_iter().map(line).collect();
            Panel { title: format!("{}: {}", self.title, self.columns[*column]), x: self.x.to_owned(), lines }
        };
        let panels: Vec<_> = self.plotted.iter().map(panel).collect();
        chart::draw(&directory.join(format!("growth-{}.svg", self.name)), &panels);
    }
}

/// Writes all parts.
pub(crate) fn write(parts: &[Part]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    let mut text = format!(
        "# Cost as work grows\n\nWritten by `make bench` on {}: {}.\nThe clients and the registries share the processors with the daemon. What grows with the number of blobs and tags is in\n[SCALE.md](SCALE.md).\n\n",
        machine::today(),
        machine::describe()
    );
    parts.iter().for_each(|part| text += &part.markdown());
    fs::write(directory.join("GROWTH.md"), text.trim_end().to_owned() + "\n").unwrap();
    let parts_as_json: Vec<_> = parts.iter().map(Part::json).collect();
    let all =
        serde_json::json!({"date": machine::today(), "machine": machine::describe(), "parts": parts_as_json});
    fs::write(directory.join("growth.json"), format!("{all:#}\n")).unwrap();
    parts.iter().for_each(|part| part.draw(&directory));
}
