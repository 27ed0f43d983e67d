//! `GET /`: the numbers of `/v1/status` as a page for people. No framework, nothing from elsewhere, no name of any
//! repository or registry, and no script: the page asks to be loaded again every half minute.

use std::fmt::Write as _;

use http::Response;
use http::header::{CONTENT_SECURITY_POLICY, HeaderName, HeaderValue};

use super::history::{DAY, HOUR, History, Sample};
use super::plot::{Plot, Series};
use super::respond::page_of;
use super::status::DaemonStatus;
use crate::listener::Body;

/// Nothing is loaded from anywhere, nothing runs, and no other page may frame this one.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="30">
<title>Larder</title><style>
:root{color-scheme:light dark;--line:#8884;--soft:#666;--good:#2a9d6a;--fetched:#d98c2b;--calm:#4f7fc4;--bad:#c8453b}
@media(prefers-color-scheme:dark){:root{--soft:#aaa;--good:#3fbf86;--fetched:#e6a44d;--calm:#7aa5e6;--bad:#ef6f63}}
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem;margin:0}h2{font-size:1rem;margin:2rem 0 .5rem}
p{margin:.2rem 0;color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;margin:1.2rem 0}
.tile{border:1px solid var(--line);border-radius:.5rem;padding:.7rem 1rem}
.tile b{display:block;font-size:1.5rem;font-weight:600;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.85rem}
.bar{height:.4rem;border-radius:.2rem;background:var(--line);margin-top:.4rem}
.bar i{display:block;height:100%;border-radius:.2rem;background:var(--good)}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .5rem;border-top:1px solid var(--line)}
td:last-child,th:last-child{text-align:right;font-variant-numeric:tabular-nums}
.bad{color:var(--bad)}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(22rem,100%),1fr));gap:1rem 1.5rem}
figure{margin:0}figcaption{font-size:.85rem;color:var(--soft)}svg{display:block;width:100%;height:6rem}
.most,.ends{font-size:.75rem;color:var(--soft)}.ends{display:flex;justify-content:space-between}
.axis{stroke:var(--soft)}.grid{stroke:var(--line);stroke-dasharray:3}
.key{white-space:nowrap;margin-left:.6rem}.key i{display:inline-block;width:.7em;height:.7em;margin-right:.3em;border-radius:2px}
</style></head><body><main>"#;

const TAIL: &str = r#"</main><p>The same as JSON: <a href="/v1/status">/v1/status</a>. For Prometheus: <a href="/metrics">/metrics</a>.
Names of images and registries: <code>larder status</code>, <code>larder ls</code>.</p>
</body></html>
"#;

/// The page.
pub(super) fn answer(status: &DaemonStatus, history: &History) -> Response<Body> {
    let mut html = HEAD.to_owned();
    // Writing to a String cannot fail.
    let _ = write_main(&mut html, status, history);
    html.push_str(TAIL);
    let mut response = page_of("text/html; charset=utf-8", html.into_bytes());
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"));
    response
}

fn write_main(html: &mut String, status: &DaemonStatus, history: &History) -> std::fmt::Result {
    let DaemonStatus {
        version,
        uptime_seconds,
        ready,
        store,
        served,
        downloads,
        requests,
        outages,
        pods,
        tier,
    } = status;
    let up = humantime::format_duration(std::time::Duration::from_secs(*uptime_seconds));
    let state = if *ready { "ready" } else { "not ready" };
    writeln!(html, "<h1>Larder</h1><p>version {version}, {state}, up for {up}</p>")?;
    if *outages > 0 {
        writeln!(
            html,
            "<p class=\"bad\">{outages} {} cannot be asked; what was pulled before is served as it was.</p>",
            if *outages == 1 { "registry" } else { "registries" }
        )?;
    }
    if !store.caching {
        writeln!(html, "<p class=\"bad\">The store's disk failed; what is fetched is passed through.</p>")?;
    }
    if store.lacks_inodes {
        html.push_str("<p class=\"bad\">Its filesystem has too few free inodes to store anything; what is fetched is passed through.</p>\n");
    } else if store.capacity_bytes == Some(0) {
        html.push_str("<p class=\"bad\">Its filesystem is too full to store anything; what is fetched is passed through.</p>\n");
    }
    if tier.as_ref().is_some_and(|tier| tier.reading_fails.is_some() || tier.writing_fails.is_some()) {
        writeln!(html, "<p class=\"bad\">The shared tier fails; registries are asked instead.</p>")?;
    }
    html.push_str("<div class=\"tiles\">");
    let ratio = served.hit_ratio.map_or("–".to_owned(), |ratio| format!("{:.1} %", ratio * 100.0));
    tile(html, &ratio, "of the bytes served did not have to be fetched", served.hit_ratio)?;
    let of_served = format!("of {} served did not have to be fetched", bytes(served.bytes));
    tile(html, &bytes(served.saved_bytes), &of_served, None)?;
    tile(html, &bytes(served.from_upstream_bytes), "of them came from upstream", None)?;
    let of_received = format!("of {} received were served to no client yet", bytes(served.received_bytes));
    tile(html, &bytes(served.unserved_bytes), &of_received, None)?;
    let full = store.max_bytes.filter(|max| *max > 0).map(|max| fraction(store.bytes, max));
    let of = store.max_bytes.map_or_else(String::new, |max| format!(" of {}", bytes(max)));
    tile(html, &bytes(store.bytes), &format!("in {} blobs{of}", store.blobs), full)?;
    tile(html, &downloads.to_string(), "downloads under way", None)?;
    tile(html, &store.pins.to_string(), "images pinned", None)?;
    if let Some(pods) = pods {
        let asked = pods.found_all + pods.found_part;
        let found = (asked > 0).then(|| fraction(pods.found_all, asked));
        let caption = format!("of {asked} images were here before a runtime asked, for {} pods", pods.known);
        tile(html, &pods.found_all.to_string(), &caption, found)?;
    }
    let free = store.free_bytes.map_or("–".to_owned(), bytes);
    tile(html, &free, "free on its filesystem", None)?;
    if let Some(tier) = tier {
        let read = format!("read from the shared tier; {} written to it", bytes(tier.written_bytes));
        tile(html, &bytes(tier.read_bytes), &read, None)?;
    }
    html.push_str("</div>");
    write_plots(html, history)?;
    let served = served.bytes_by_source.iter().map(|(source, n)| (source.as_str(), bytes(*n)));
    table(html, "Bytes served, by where they came from", "source", served)?;
    let asked = requests.iter().map(|(outcome, n)| (outcome.as_str(), n.to_string()));
    table(html, "Requests, by outcome", "outcome", asked)
}

/// Minutes that are one bar of the plots of a day.
const STEP_OF_DAY: usize = 15;

fn write_plots(html: &mut String, history: &History) -> std::fmt::Result {
    let spans =
        [("The last hour", "an hour ago", HOUR, 1), ("The last day", "24 hours ago", DAY, STEP_OF_DAY)];
    for (heading, from, minutes, step) in spans {
        let steps = history.steps(minutes, step);
        writeln!(html, "<h2>{heading}</h2><div class=\"plots\">")?;
        plots(&steps, from).iter().for_each(|plot| html.push_str(&plot.html()));
        html.push_str("</div>");
    }
    Ok(())
}

/// What is served, asked and stored, over time.
fn plots(steps: &[Option<Sample>], from: &'static str) -> [Plot; 3] {
    #[allow(clippy::cast_precision_loss, reason = "the height of a bar")]
    let series = |name, colour, of: fn(&Sample) -> u64| Series {
        name,
        colour,
        values: steps.iter().map(|step| step.as_ref().map(|step| of(step) as f64)).collect(),
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a sum of counts")]
    let shown = |value: f64| bytes(value as u64);
    let served = vec![
        series("from upstream", "--fetched", |step| step.from_upstream),
        series("not fetched", "--good", |step| step.saved),
    ];
    let requests = vec![
        series("served", "--good", |step| step.served),
        series("challenged", "--calm", |step| step.challenged),
        series("refused", "--fetched", |step| step.refused),
        series("failed", "--bad", |step| step.failed),
    ];
    let store = vec![series("in the store", "--calm", |step| step.store)];
    [
        Plot { title: "Bytes served", from, series: served, shown },
        Plot { title: "Requests", from, series: requests, shown: |value| format!("{value:.0}") },
        Plot { title: "Store", from, series: store, shown },
    ]
}

#[allow(clippy::cast_precision_loss, reason = "the length of a bar")]
fn fraction(of: u64, all: u64) -> f64 {
    (of as f64 / all as f64).min(1.0)
}

fn tile(html: &mut String, number: &str, caption: &str, bar: Option<f64>) -> std::fmt::Result {
    write!(html, "<div class=\"tile\"><b>{number}</b><span>{caption}</span>")?;
    if let Some(fraction) = bar {
        write!(html, "<div class=\"bar\"><i style=\"width:{:.1}%\"></i></div>", fraction * 100.0)?;
    }
    writeln!(html, "</div>")
}

fn table<'a>(
    html: &mut String,
    title: &str,
    column: &str,
    rows: impl Iterator<Item = (&'a str, String)>,
) -> std::fmt::Result {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return Ok(());
    }
    writeln!(html, "<h2>{title}</h2><table><tr><th>{column}</th><th></th></tr>")?;
    for (name, value) in rows {
        writeln!(html, "<tr><td>{name}</td><td>{value}</td></tr>")?;
    }
    writeln!(html, "</table>")
}

/// Bytes as people read them.
fn bytes(count: u64) -> String {
    crate::support::size::shown(count)
}
