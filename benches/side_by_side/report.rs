//! The results as Markdown, JSON and a chart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

use crate::compare::{Change, judge, median};
use crate::kind::Kind;
use crate::rounds::Measured;
use crate::support::machine;

/// One row: a kind of work.
pub(crate) struct Row {
    what: String,
    /// The congestion control that was set; empty for the machine's own where it hardly matters.
    congestion: String,
    unit: &'static str,
    more_is_better: bool,
    values: BTreeMap<Kind, f64>,
    /// What the values are the medians of; empty for what is measured once.
    rounds: Measured,
}

/// All of them.
pub(crate) struct Table {
    mib: usize,
    rows: Vec<Row>,
}

impl Row {
    /// The medians of what was measured in turns; more is better.
    pub(crate) fn more(what: &str, congestion: &str, unit: &'static str, rounds: Measured) -> Self {
        let values = rounds.iter().map(|(kind, values)| (*kind, median(values))).collect();
        let (what, congestion) = (what.to_owned(), congestion.to_owned());
        Self { what, congestion, unit, more_is_better: true, values, rounds }
    }

    /// The same; less is better.
    pub(crate) fn less(what: &str, congestion: &str, unit: &'static str, rounds: Measured) -> Self {
        Self { more_is_better: false, ..Self::more(what, congestion, unit, rounds) }
    }

    /// What was measured once; less is better.
    pub(crate) fn once(
        what: &str,
        congestion: &str,
        unit: &'static str,
        values: BTreeMap<Kind, f64>,
    ) -> Self {
        Self { values, ..Self::less(what, congestion, unit, Measured::new()) }
    }

    /// What it is, with its congestion control and its unit.
    fn title(&self) -> String {
        let more = [self.congestion.as_str(), self.unit].into_iter().filter(|word| !word.is_empty());
        let more: Vec<_> = more.collect();
        if more.is_empty() { self.what.clone() } else { format!("{} ({})", self.what, more.join(", ")) }
    }

    /// Larder against the build before, if that took part.
    fn change(&self) -> Option<Change> {
        let (before, after) = (self.values.get(&Kind::LarderBefore)?, self.values.get(&Kind::Larder)?);
        let rounds = |kind| self.rounds.get(kind).map_or(&[][..], Vec::as_slice);
        let (old, new) = (rounds(&Kind::LarderBefore), rounds(&Kind::Larder));
        Some(if before.is_finite() && after.is_finite() {
            judge(old, new, self.more_is_better)
        } else {
            Change::Unknown
        })
    }

    /// Larder against the best peer that took part, or against the upstream itself where none did, and which that is. Above
    /// 1 Larder is better.
    fn ratio(&self) -> Option<(f64, Kind)> {
        let larder = *self.values.get(&Kind::Larder)?;
        let best = |of: fn(Kind) -> bool| {
            let values = self.values.iter().filter(|(kind, _)| of(**kind));
            values.reduce(|a, b| if (a.1 > b.1) == self.more_is_better { a } else { b })
        };
        let (kind, best) = best(Kind::is_peer).or_else(|| best(|kind| kind == Kind::Direct))?;
        Some((if self.more_is_better { larder / best } else { best / larder }, *kind))
    }
}

impl Table {
    pub(crate) fn new(mib: usize) -> Self {
        Self { mib, rows: Vec::new() }
    }

    /// The size of a cold blob.
    pub(crate) fn cold_mib(&self) -> usize {
        self.mib.div_ceil(4)
    }

    /// The size of the blob that curl reads.
    pub(crate) fn curl_mib(&self) -> usize {
        self.mib.div_ceil(2)
    }

    pub(crate) fn add(&mut self, row: Row) {
        let shown: Vec<_> =
            row.values.iter().map(|(kind, value)| format!("{} {value:.2}", kind.name())).collect();
        println!("{:<48} {}", row.title(), shown.join(", "));
        self.rows.push(row);
    }

    /// Says which rows moved since the build before, if that took part.
    pub(crate) fn print_changes(&self) {
        for row in &self.rows {
            let said = match row.change() {
                None => continue,
                Some(Change::Better(by)) => format!("BETTER by {:.1} %", by * 100.0),
                Some(Change::Worse(by)) => format!("WORSE by {:.1} %", by * 100.0),
                Some(Change::Noise) => "the same, as far as the noise lets see".to_owned(),
                Some(Change::Unknown) => "measured too rarely to say".to_owned(),
            };
            println!("{:<48} {said}", row.title());
        }
    }

    pub(crate) fn write(&self) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
        fs::write(directory.join("RESULTS.md"), self.markdown()).unwrap();
        fs::write(directory.join("results.json"), self.json()).unwrap();
        self.draw(&directory.join("results.svg"));
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("# Larder beside other caches\n\n");
        let _ = writeln!(text, "Written by `make bench` on {}: {}.", machine::today(), machine::describe());
        let _ = writeln!(
            text,
            "Blobs of {} MiB (cold: {} MiB) on loopback, everything in one run, taking turns, medians. The ratio is Larder against\nthe best peer of that row, which is named, or against the upstream itself where no peer takes part; above 1 Larder is better.\n*Direct* is the upstream without a cache. A peer that failed in a row, or has no part in it, has a dash.\n",
            self.mib,
            self.cold_mib()
        );
        text += "A row with the name of a congestion control ran with that one set for the whole machine, the others with the machine's own;\nLarder uses reno on loopback by itself. The clients compare every byte, those of curl excepted, and share the\nprocessors with the servers. Processor time of cold blobs counts until the server is at rest. No server writes a request\nlog, except Varnish into memory. nginx, Varnish and Traffic Server do not verify what they send.\n\n";
        let took_part = |kind: &Kind| self.rows.iter().any(|row| row.values.contains_key(kind));
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(took_part).collect();
        let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
        let _ = writeln!(text, "| Work | {} | Ratio |", names.join(" | "));
        let _ = writeln!(text, "| --- |{} --- |", " --- |".repeat(names.len()));
        for row in &self.rows {
            let cell =
                |kind: &Kind| row.values.get(kind).map_or("–".to_owned(), |value| format!("{value:.2}"));
            let cells: Vec<_> = kinds.iter().map(cell).collect();
            let ratio =
                row.ratio().map_or("–".to_owned(), |(ratio, of)| format!("{ratio:.2} of {}", of.name()));
            let _ = writeln!(text, "| {} | {} | {ratio} |", row.title(), cells.join(" | "));
        }
        text
    }

    fn json(&self) -> String {
        let named = |kind: &Kind| kind.name();
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let values: BTreeMap<_, _> =
                    row.values.iter().map(|(kind, value)| (named(kind), value)).collect();
                let rounds: BTreeMap<_, _> =
                    row.rounds.iter().map(|(kind, all)| (named(kind), all)).collect();
                let (ratio, of) = row.ratio().unzip();
                serde_json::json!({
                    "what": row.what, "congestion_control": row.congestion, "unit": row.unit,
                    "more_is_better": row.more_is_better, "values": values, "rounds": rounds,
                    "ratio": ratio, "ratio_to": of.map(Kind::name),
                })
            })
            .collect();
        serde_json::to_string_pretty(
            &serde_json::json!({"date": machine::today(), "machine": machine::describe(), "rows": rows}),
        )
        .unwrap()
            + "\n"
    }

    /// The ratios as bars around 1.
    fn draw(&self, path: &Path) {
        let rows: Vec<(String, f64, Kind)> = self
            .rows
            .iter()
            .filter_map(|row| row.ratio().map(|(ratio, of)| (row.title(), ratio, of)))
            .collect();
        let height = 60 + 26 * rows.len() as u32;
        let area = SVGBackend::new(path, (1_290, height)).into_drawing_area();
        area.fill(&WHITE).unwrap();
        let most = rows.iter().map(|(_, ratio, _)| *ratio).fold(1.0, f64::max) * 1.05;
        let x = |ratio: f64| 590 + (ratio / most * 430.0) as i32;
        let style = ("sans-serif", 14).into_font().color(&BLACK);
        let title = "Larder against the best peer of each row (right of the line is better)";
        area.draw(&Text::new(title, (20, 12), style.clone())).unwrap();
        for (n, (what, ratio, of)) in rows.iter().enumerate() {
            let top = 44 + 26 * n as i32;
            area.draw(&Text::new(what.as_str(), (20, top + 1), style.clone())).unwrap();
            // As it is written, with two digits.
            let color = if *ratio >= 0.995 { RGBColor(46, 125, 50) } else { RGBColor(198, 120, 40) };
            area.draw(&Rectangle::new([(x(0.0), top), (x(*ratio), top + 17)], color.filled())).unwrap();
            let text = format!("{ratio:.2} of {}", of.name());
            area.draw(&Text::new(text, (x(*ratio) + 6, top + 1), style.clone())).unwrap();
        }
        area.draw(&PathElement::new([(x(1.0), 36), (x(1.0), height as i32 - 10)], BLACK.stroke_width(2)))
            .unwrap();
        area.present().unwrap();
    }
}
