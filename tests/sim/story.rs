//! A history as people read it.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use crate::client::Ask;
use crate::referee::Violation;
use crate::world::History;

/// Lines at most.
const LINES_MAX: usize = 400;

/// The history, line by line, with the violations where they were seen.
pub(crate) fn tell(history: &History, violations: &[Violation]) -> String {
    let mut lines: Vec<(u64, String)> = Vec::new();
    let mut at = 0;
    for (number, step) in history.plan.steps.iter().enumerate() {
        at += step.after_ms;
        let act = serde_json::to_string(&step.act).unwrap_or_default();
        lines.push((at, format!("   step {number}: {act}")));
    }
    for ask in &history.asks {
        lines.push((ask.reply.ended_at, format!("   client: {}", answered(ask))));
    }
    for seen in &history.seen {
        let fault = seen.fault.map_or(String::new(), |fault| format!(", on purpose: {fault:?}"));
        let range = seen.range.as_deref().map_or(String::new(), |range| format!(" {range}"));
        lines.push((
            seen.at,
            format!(
                "   {} <- {} {}{range}: {}, {} bytes{fault}",
                seen.host.name(),
                if seen.head { "HEAD" } else { "GET" },
                short(&seen.path),
                seen.status,
                seen.sent.load(Ordering::Relaxed)
            ),
        ));
    }
    lines.extend(history.bucket.seen.iter().map(|(at, line)| (*at, format!("   {}", shortened(line)))));
    lines.push((history.calm_at, "   nothing is wrong any more, and has not been for a while".to_owned()));
    if history.disk_hits > 0 {
        lines
            .push((history.calm_at, format!("   {} calls to the disk were made to fail", history.disk_hits)));
    }
    lines.extend(history.notes.iter().map(|(at, note)| (*at, format!("   {}", short(note)))));
    lines.extend(violations.iter().map(|v| (v.at, format!("!! {}: {}", v.kind, short(&v.what)))));
    lines.sort_by_key(|(at, _)| *at);
    let mut text = format!("setup: {}\n", serde_json::to_string(&history.plan.setup).unwrap_or_default());
    for (at, line) in lines.iter().take(LINES_MAX) {
        let _ = writeln!(text, "{:>9}.{:03} s {line}", at / 1_000, at % 1_000);
    }
    if lines.len() > LINES_MAX {
        let _ = writeln!(text, "... and {} lines more", lines.len() - LINES_MAX);
    }
    text
}

fn answered(ask: &Ask) -> String {
    let reply = &ask.reply;
    let of = if ask.step == usize::MAX { String::new() } else { format!("[{}] ", ask.step) };
    let mut text =
        format!("{of}{:?} {} {}", ask.who, if ask.head { "HEAD" } else { "GET" }, short(&ask.path()));
    if let Some((start, end)) = ask.range {
        let _ = write!(text, " bytes {start}-{end}");
    }
    let _ = write!(text, " (since {}.{:03}): {}", ask.begun / 1_000, ask.begun % 1_000, reply.status);
    let end = match (ask.head, reply.complete, reply.left) {
        (true, ..) => "",
        (_, true, _) => ", complete",
        (.., true) => ", left",
        _ => ", cut off",
    };
    let _ = write!(text, ", {} bytes{end}", reply.got);
    if let Some(at) = reply.wrong_at {
        let _ = write!(text, ", WRONG at {at}");
    }
    if !reply.is_success() {
        let _ =
            write!(text, " {}", String::from_utf8_lossy(&reply.kept).chars().take(160).collect::<String>());
    }
    text
}

/// Keys of the bucket without what all of them have.
fn shortened(line: &str) -> String {
    let words = line.split(' ').map(|word| match word.split('/').collect::<Vec<_>>().as_slice() {
        [_, _, _, kind, _, _, hex, _] if hex.len() > 8 => format!("{kind} {}", &hex[..8]),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Digests by their first digits.
pub(crate) fn short(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("sha256:") {
        let end = (at + 7 + 8).min(rest.len());
        out.push_str(&rest[..end]);
        rest = rest[end..].trim_start_matches(|c: char| c.is_ascii_hexdigit());
    }
    out.push_str(rest);
    out
}
