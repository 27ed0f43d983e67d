//! Plots in plain SVG: stacked bars over time, for a page without scripts. Pure.
//!
//! Colours are the page's own (CSS variables), so that they follow the reader's scheme; the picture scales with the
//! page.

use std::fmt::Write as _;

/// The picture's own units; the page stretches it. Words stand beside it, so that they keep their size.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 100.0;
/// Where the bars are.
const TOP: f64 = 3.0;
const BOTTOM: f64 = 97.0;

/// One of the stacked series.
pub(super) struct Series {
    /// Its name in the legend.
    pub(super) name: &'static str,
    /// The CSS variable with its colour.
    pub(super) colour: &'static str,
    /// One value for each step; `None` where nothing was counted yet.
    pub(super) values: Vec<Option<f64>>,
}

/// A plot.
pub(super) struct Plot {
    /// What it shows.
    pub(super) title: &'static str,
    /// The time that it begins at, in words: `24 hours ago`.
    pub(super) from: &'static str,
    /// From the lowest bar up.
    pub(super) series: Vec<Series>,
    /// How a value is shown.
    pub(super) shown: fn(f64) -> String,
}

impl Plot {
    /// The plot as a `figure` of HTML.
    pub(super) fn html(&self) -> String {
        let steps = self.series.iter().map(|series| series.values.len()).max().unwrap_or(0);
        let sums: Vec<f64> = (0..steps).map(|n| self.series.iter().filter_map(|s| s.at(n)).sum()).collect();
        let largest = sums.iter().copied().fold(0.0, f64::max);
        let mut html = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut html, steps, largest);
        html
    }

    fn write(&self, html: &mut String, steps: usize, largest: f64) -> std::fmt::Result {
        let (title, shown) = (self.title, (self.shown)(largest));
        write!(html, "<figure><figcaption>{title} ")?;
        for Series { name, colour, .. } in &self.series {
            write!(html, "<span class=\"key\"><i style=\"background:var({colour})\"></i>{name}</span> ")?;
        }
        write!(html, "</figcaption>")?;
        write!(html, "<div class=\"most\">{shown}</div>")?;
        write!(html, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" ")?;
        write!(html, "aria-label=\"{title}, at most {shown}\">")?;
        write!(html, "<line class=\"axis\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{BOTTOM}\" y2=\"{BOTTOM}\"/>")?;
        write!(html, "<line class=\"grid\" x1=\"0\" x2=\"{WIDTH}\" y1=\"{TOP}\" y2=\"{TOP}\"/>")?;
        let mut floor = vec![BOTTOM; steps];
        for series in &self.series {
            write!(html, "<path style=\"fill:var({})\" d=\"", series.colour)?;
            for (n, floor) in floor.iter_mut().enumerate() {
                let value = series.at(n).unwrap_or(0.0);
                if value > 0.0 && largest > 0.0 {
                    *floor = bar(html, n, steps, *floor, value / largest)?;
                }
            }
            write!(html, "\"/>")?;
        }
        writeln!(html, "</svg><div class=\"ends\"><span>{}</span><span>now</span></div></figure>", self.from)
    }
}

impl Series {
    fn at(&self, n: usize) -> Option<f64> {
        self.values.get(n).copied().flatten()
    }
}

/// One bar of the fraction `of_largest` on top of `floor`; returns its top.
#[allow(clippy::cast_precision_loss, reason = "a place in a picture")]
fn bar(
    html: &mut String,
    n: usize,
    steps: usize,
    floor: f64,
    of_largest: f64,
) -> Result<f64, std::fmt::Error> {
    let width = WIDTH / steps as f64;
    let height = (BOTTOM - TOP) * of_largest;
    write!(
        html,
        "M{:.1} {floor:.1}h{:.1}v-{height:.1}h-{:.1}z",
        n as f64 * width,
        width * 0.86,
        width * 0.86
    )?;
    Ok(floor - height)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(values: [Vec<Option<f64>>; 2]) -> String {
        let [low, high] = values;
        let series = vec![
            Series { name: "low", colour: "--a", values: low },
            Series { name: "high", colour: "--b", values: high },
        ];
        Plot { title: "T", from: "an hour ago", series, shown: |value| format!("{value:.0}") }.html()
    }

    #[test]
    fn bars_stand_on_each_other_and_the_largest_sum_is_as_high_as_the_plot() {
        let html = plot([vec![Some(1.0), Some(3.0)], vec![None, Some(1.0)]]);
        // 94 units for the sum of 4.
        assert!(html.contains("M0.0 97.0h258.0v-23.5h-258.0z"), "{html}");
        assert!(html.contains("M300.0 97.0h258.0v-70.5h-258.0z"), "{html}");
        assert!(html.contains("d=\"M300.0 26.5h258.0v-23.5h-258.0z\""), "{html}");
        assert!(html.contains("<div class=\"most\">4</div>"), "{html}");
    }

    #[test]
    fn a_plot_of_nothing_is_an_empty_plot() {
        let html = plot([vec![None, Some(0.0)], Vec::new()]);
        assert!(
            html.contains("d=\"\"") && html.contains("<div class=\"most\">0</div>") && !html.contains("NaN"),
            "{html}"
        );
    }
}
