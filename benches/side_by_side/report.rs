//! The results as Markdown, JSON and a chart.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

use crate::compare::{Change, judge, median};
use crate::servers::Kind;
use crate::support::machine;

/// One row: a kind of work.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) more_is_better: bool,
    pub(crate) values: BTreeMap<Kind, f64>,
    /// What the values are the medians of; empty for what is measured once.
    rounds: BTreeMap<Kind, Vec<f64>>,
}

/// All of them.
pub(crate) struct Table {
    mib: usize,
    rows: Vec<Row>,
}

impl Row {
    /// The medians of what was measured in turns.
    pub(crate) fn of(
        what: String,
        unit: &'static str,
        more_is_better: bool,
        rounds: BTreeMap<Kind, Vec<f64>>,
    ) -> Self {
        let values = rounds.iter().map(|(kind, values)| (*kind, median(values))).collect();
        Self { what, unit, more_is_better, values, rounds }
    }

    /// What was measured once.
    pub(crate) fn once(
        what: String,
        unit: &'static str,
        more_is_better: bool,
        values: BTreeMap<Kind, f64>,
    ) -> Self {
        Self { what, unit, more_is_better, values, rounds: BTreeMap::new() }
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

    /// Larder against the best nginx that hands out files, else nginx as a cache, else docker-registry: the first of these
    /// that took part. Above 1 Larder is better.
    fn ratio(&self) -> Option<f64> {
        let larder = *self.values.get(&Kind::Larder)?;
        let of = |kinds: &[Kind]| {
            kinds.iter().filter_map(|kind| self.values.get(kind).copied()).collect::<Vec<f64>>()
        };
        let peers = [&Kind::STATIC[..], &[Kind::NginxCache], &[Kind::Registry]];
        let peers = peers.into_iter().map(of).find(|values| !values.is_empty())?;
        let best = peers.into_iter().reduce(|a, b| if (a > b) == self.more_is_better { a } else { b })?;
        Some(if self.more_is_better { larder / best } else { best / larder })
    }
}

impl Table {
    pub(crate) fn new(mib: usize) -> Self {
        Self { mib, rows: Vec::new() }
    }

    pub(crate) fn add(&mut self, row: Row) {
        let shown: Vec<_> =
            row.values.iter().map(|(kind, value)| format!("{} {value:.2}", kind.name())).collect();
        println!("{:<48} {} ({})", row.what, shown.join(", "), row.unit);
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
            println!("{:<48} {said}", row.what);
        }
    }

    pub(crate) fn write(&self) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
        fs::write(directory.join("RESULTS.md"), self.markdown()).unwrap();
        fs::write(directory.join("results.json"), self.json()).unwrap();
        self.draw(&directory.join("results.svg"));
    }

    fn markdown(&self) -> String {
        let mut text = String::from("# Larder beside nginx and docker-registry\n\n");
        let _ = writeln!(text, "Written by `make bench` on {}: {}.", machine::today(), machine::describe());
        let _ = writeln!(
            text,
            "Blobs of {} MiB (cold: 256 MiB) on loopback, everything in one run, taking turns, medians. The ratio is\nLarder against the best nginx that hands out files, where there is none against nginx `proxy_cache`, else against\ndocker-registry; above 1 Larder is better. Larder uses reno on loopback by itself; *reno*: the others do, too.\nCold blobs come from docker-registry with reno: a sender that paces settles on one of two rates on loopback.\nThe clients compare every byte and share the cores with the servers. Larder writes no request log, as\nnginx, docker-registry and Traffic Server do here.\n",
            self.mib
        );
        let took_part = |kind: &Kind| self.rows.iter().any(|row| row.values.contains_key(kind));
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(took_part).collect();
        let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
        let _ = writeln!(text, "| Work | {} | Ratio |", names.join(" | "));
        let _ = writeln!(text, "| --- |{} --- |", " --- |".repeat(names.len()));
        for row in &self.rows {
            let cell =
                |kind: &Kind| row.values.get(kind).map_or("–".to_owned(), |value| format!("{value:.2}"));
            let cells: Vec<_> = kinds.iter().map(cell).collect();
            let ratio = row.ratio().map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
            let _ = writeln!(text, "| {} ({}) | {} | {ratio} |", row.what, row.unit, cells.join(" | "));
        }
        text
    }

    fn json(&self) -> String {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let values: BTreeMap<_, _> = row.values.iter().map(|(kind, value)| (kind.name(), value)).collect();
                serde_json::json!({"what": row.what, "unit": row.unit, "values": values, "ratio": row.ratio()})
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
        let rows: Vec<(&str, f64)> =
            self.rows.iter().filter_map(|row| Some((row.what.as_str(), row.ratio()?))).collect();
        let height = 60 + 34 * rows.len() as u32;
        let area = SVGBackend::new(path, (900, height)).into_drawing_area();
        area.fill(&WHITE).unwrap();
        let most = rows.iter().map(|(_, ratio)| *ratio).fold(1.0, f64::max) * 1.15;
        let x = |ratio: f64| 360 + (ratio / most * 500.0) as i32;
        let style = ("sans-serif", 15).into_font().color(&BLACK);
        area.draw(&Text::new(
            "Larder against nginx, or the registry itself (right of the line is better)",
            (20, 12),
            style.clone(),
        ))
        .unwrap();
        for (n, (what, ratio)) in rows.iter().enumerate() {
            let top = 44 + 34 * n as i32;
            area.draw(&Text::new(*what, (20, top + 3), style.clone())).unwrap();
            let color = if *ratio >= 1.0 { RGBColor(46, 125, 50) } else { RGBColor(198, 120, 40) };
            area.draw(&Rectangle::new([(x(0.0), top), (x(*ratio), top + 22)], color.filled())).unwrap();
            area.draw(&Text::new(format!("{ratio:.2}"), (x(*ratio) + 6, top + 3), style.clone())).unwrap();
        }
        area.draw(&PathElement::new([(x(1.0), 36), (x(1.0), height as i32 - 10)], BLACK.stroke_width(2)))
            .unwrap();
        area.present().unwrap();
    }
}
