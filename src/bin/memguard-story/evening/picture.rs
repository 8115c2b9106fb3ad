//! The evening as a picture: used memory above; below, at each moment, the end that was foretold then.
//! Forbidden here: judging; scripts and anything from elsewhere in the picture.

use super::{Look, clock};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 520.0;
/// Left, top, right, bottom of used memory.
const PLOT: [f64; 4] = [60.0, 50.0, 870.0, 290.0];
/// Top and bottom of what was foretold.
const FORETOLD: [f64; 2] = [345.0, 465.0];
/// Foretold ends are drawn from this long before the true one to this long after it, seconds.
const AROUND_S: [f64; 2] = [3_600.0, 7_200.0];

/// The whole picture. `looks` ends when memory was full.
pub fn svg(looks: &[Look]) -> String {
    let (Some(last), Some(begun)) = (looks.last(), looks.first()) else {
        return String::new();
    };
    let full_s = last.at_s;
    let span = full_s * 1.12;
    let x = |at_s: f64| PLOT[0] + (PLOT[2] - PLOT[0]) * (at_s - begun.at_s).min(span) / span;
    let y = |share: f64| PLOT[3] - (PLOT[3] - PLOT[1]) * share.min(1.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"13\" role=\"img\">\n\
         <title>An evening of a slow leak: used shared memory, and the end that memguard foretold at each moment</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let mut put = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    for percent in [0, 20, 40, 60, 80, 100] {
        let at = y(f64::from(percent) / 100.0);
        put(format!(
            "<line x1=\"{}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>",
            PLOT[0], PLOT[2]
        ));
        put(format!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#333333\">{percent} %</text>",
            PLOT[0] - 6.0,
            at + 4.0
        ));
    }
    let mut hour = 0.0;
    while hour <= span {
        put(format!(
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#333333\">{}</text>",
            x(hour),
            PLOT[3] + 20.0,
            clock(hour)
        ));
        hour += 1_800.0;
    }
    // What was foretold: the likely end as a line, earliest to latest as a band, and the truth.
    let end = |at_s: f64| {
        let share = (at_s - full_s + AROUND_S[0]) / (AROUND_S[0] + AROUND_S[1]);
        FORETOLD[1] - (FORETOLD[1] - FORETOLD[0]) * share.clamp(0.0, 1.0)
    };
    let told: Vec<(f64, [f64; 3])> = looks
        .iter()
        .filter_map(|look| Some((look.at_s, look.ends_s?)))
        .collect();
    let point = |(at_s, ends): &(f64, [f64; 3]), which: usize| {
        format!("{:.1},{:.1}", x(*at_s), end(ends[which]))
    };
    let band: Vec<String> = told
        .iter()
        .map(|t| point(t, 0))
        .chain(told.iter().rev().map(|t| point(t, 2)))
        .collect();
    let likely: Vec<String> = told.iter().map(|t| point(t, 1)).collect();
    put(format!(
        "<polygon points=\"{}\" fill=\"#e69f00\" fill-opacity=\"0.35\"/>",
        band.join(" ")
    ));
    put(format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#d55e00\" stroke-width=\"2\"/>",
        likely.join(" ")
    ));
    put(format!(
        "<line x1=\"{}\" x2=\"{}\" y1=\"{2:.1}\" y2=\"{2:.1}\" stroke=\"#000000\" stroke-dasharray=\"6 4\"/>",
        PLOT[0],
        PLOT[2],
        end(full_s)
    ));
    for after in [-1.0, 0.0, 1.0, 2.0] {
        let at = full_s + 3_600.0 * after;
        put(format!(
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#333333\">{}</text>",
            PLOT[0] - 6.0,
            end(at) + 4.0,
            clock(at)
        ));
    }
    let path: Vec<String> = looks
        .iter()
        .map(|look| format!("{:.1},{:.1}", x(look.at_s), y(look.used_share())))
        .collect();
    put(format!(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#0072b2\" stroke-width=\"3\"/>",
        path.join(" ")
    ));
    put(format!(
        "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"6\" fill=\"#000000\"/>",
        x(full_s),
        y(1.0)
    ));
    put(format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-weight=\"bold\">full at {}</text>",
        x(full_s).min(PLOT[2] - 40.0),
        PLOT[1] - 12.0,
        clock(full_s)
    ));
    if let Some(look) = looks.iter().find(|look| look.ends_s.is_some()) {
        put(format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" fill=\"#333333\">announced at {} (cause: {})</text>",
            x(look.at_s) + 10.0,
            y(look.used_share()) + 24.0,
            clock(look.at_s),
            look.cause
        ));
        put(format!(
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"#d55e00\"/>",
            x(look.at_s),
            y(look.used_share())
        ));
    }
    let legend = HEIGHT - 14.0;
    for (left, colour, text) in [
        (60.0, "#0072b2", "shared memory in use"),
        (240.0, "#d55e00", "the end that was foretold at that time"),
        (530.0, "#e69f00", "earliest to latest"),
        (700.0, "#000000", "the true end"),
    ] {
        put(format!(
            "<rect x=\"{left}\" y=\"{:.1}\" width=\"24\" height=\"5\" fill=\"{colour}\"/>",
            legend - 7.0
        ));
        put(format!(
            "<text x=\"{}\" y=\"{legend}\">{text}</text>",
            left + 30.0
        ));
    }
    out.push_str("</svg>\n");
    out
}
