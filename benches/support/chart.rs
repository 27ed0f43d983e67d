//! Lines over a logarithmic axis, one panel above the other.

use std::path::Path;

use plotters::prelude::*;

const WIDTH: u32 = 900;
const PANEL: i32 = 230;
const COLORS: [RGBColor; 4] =
    [RGBColor(46, 125, 50), RGBColor(198, 120, 40), RGBColor(60, 90, 170), RGBColor(120, 120, 120)];

/// One figure, as it grows.
pub(crate) struct Panel {
    /// What the lines show, and in which unit.
    pub(crate) title: String,
    /// What grows.
    pub(crate) x: String,
    /// Each line with its name and its points.
    pub(crate) lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// Writes the panels as an SVG.
pub(crate) fn draw(path: &Path, panels: &[Panel]) {
    let area = SVGBackend::new(path, (WIDTH, PANEL as u32 * panels.len() as u32)).into_drawing_area();
    area.fill(&WHITE).unwrap();
    let text = |words: &str, x: i32, y: i32| {
        area.draw(&Text::new(words.to_owned(), (x, y), ("sans-serif", 14).into_font().color(&BLACK)))
            .unwrap();
    };
    for (n, panel) in (0..).zip(panels) {
        let (top, bottom) = (n * PANEL + 40, n * PANEL + PANEL - 40);
        let points = || panel.lines.iter().flat_map(|(_, points)| points.iter().copied());
        let least = points().map(|(x, _)| x).fold(f64::INFINITY, f64::min).max(1.0);
        let most = points().map(|(x, _)| x).fold(least * 10.0, f64::max);
        let highest = points().map(|(_, y)| y).fold(f64::MIN_POSITIVE, f64::max) * 1.15;
        let place = |(x, y): (f64, f64)| {
            let share = (x.max(1.0) / least).log10() / (most / least).log10();
            (80 + (share * 560.0) as i32, bottom - (y / highest * f64::from(bottom - top)) as i32)
        };
        text(&panel.title, 20, n * PANEL + 12);
        area.draw(&PathElement::new([(70, top), (70, bottom), (660, bottom)], BLACK.stroke_width(1)))
            .unwrap();
        let mut marks: Vec<f64> = points().map(|(x, _)| x).collect();
        marks.sort_by(f64::total_cmp);
        marks.dedup();
        marks.iter().for_each(|x| text(&x.to_string(), place((*x, 0.0)).0 - 6, bottom + 6));
        text(&panel.x, 560, bottom + 22);
        for (((name, points), color), at) in panel.lines.iter().zip(COLORS.iter().cycle()).zip(0..) {
            let placed: Vec<_> = points.iter().map(|point| place(*point)).collect();
            area.draw(&PathElement::new(placed.clone(), color.stroke_width(2))).unwrap();
            for ((x, y), (_, value)) in placed.into_iter().zip(points) {
                area.draw(&Circle::new((x, y), 3, color.filled())).unwrap();
                text(&figure(*value), x + 4, y - 16);
            }
            area.draw(&Rectangle::new([(680, top + 4 + 20 * at), (692, top + 16 + 20 * at)], color.filled()))
                .unwrap();
            text(name, 700, top + 4 + 20 * at);
        }
    }
    area.present().unwrap();
}

/// A figure with three digits that count.
pub(crate) fn figure(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
