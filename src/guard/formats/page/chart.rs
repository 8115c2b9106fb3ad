//! Small charts of the last hour as inline SVG: lines that differ by dash as well as by colour, thresholds by name.
//! Forbidden here: foreign text, scripts, anything that is loaded; more than a few KB per chart.

use std::fmt::Write;

use crate::guard::formats::page::{
    history::{HOUR_S, Point},
    markup::{Clock, Percent},
};

/// Size of the drawing in its own units, which are about pixels on a phone.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 150.0;
/// Where the curves are.
const LEFT: f64 = 34.0;
const RIGHT: f64 = 352.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 128.0;
/// Height of a name.
const NAME: f64 = 11.0;
/// Shortest past that is drawn, seconds: a server that started just now.
const MIN_PAST_S: u64 = 600;
/// Part of the past's length that is drawn of the future when there is a forecast.
const AHEAD: u64 = 4;
/// Points of a curve; each is the largest value within its time.
const STEPS: u64 = 240;

/// A level that is drawn across the chart.
#[derive(Clone, Copy, Debug)]
pub struct Threshold {
    /// In whole percent.
    pub percent: u32,
    /// What begins there.
    pub name: &'static str,
}

/// One curve: its class in the style sheet, its name, its value in a point.
pub struct Curve {
    /// Class in the style sheet: colour and dash.
    pub style: &'static str,
    /// Its name in the legend; empty for the only curve of a chart.
    pub name: &'static str,
    /// Value of a point; `None` where it was not known.
    pub value: fn(&Point) -> Option<f64>,
}

/// What one chart shows.
pub struct Chart<'a> {
    /// In one sentence, for who does not see the drawing.
    pub summary: &'a str,
    /// Samples, oldest first.
    pub points: &'a [Point],
    /// End of the past, Unix seconds.
    pub now_s: u64,
    /// Value at the top; the bottom is 0.
    pub top: f64,
    /// Unit behind the numbers at the side.
    pub unit: &'static str,
    /// The curves.
    pub curves: &'a [Curve],
    /// Lines across, at most three.
    pub thresholds: &'a [Threshold],
    /// Growth in values per second, from the last point of the first curve on.
    pub growth: Option<f64>,
    /// Some of the future is shown.
    pub is_ahead: bool,
}

impl Chart<'_> {
    /// Length of the past that is drawn: the hour, or what there is of it.
    fn past_s(&self) -> u64 {
        let first = self.points.first().map_or(0, |p| p.time_s);
        self.now_s.saturating_sub(first).clamp(MIN_PAST_S, HOUR_S)
    }

    fn start_s(&self) -> u64 {
        self.now_s.saturating_sub(self.past_s())
    }

    fn ahead_s(&self) -> u64 {
        if self.is_ahead {
            self.past_s() / AHEAD
        } else {
            0
        }
    }

    /// Place of a time; times before the start are at the left edge.
    fn x(&self, time_s: u64) -> f64 {
        let span = (self.past_s() + self.ahead_s()) as f64;
        LEFT + (RIGHT - LEFT) * (time_s.saturating_sub(self.start_s()) as f64 / span).min(1.0)
    }

    fn y(&self, value: f64) -> f64 {
        let share = if self.top > 0.0 {
            value / self.top
        } else {
            0.0
        };
        BOTTOM - (BOTTOM - TOP) * share.clamp(0.0, 1.0)
    }

    /// Appends the drawing. Writing to a String cannot fail.
    pub fn draw(&self, out: &mut String) {
        let _ = write!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            self.summary
        );
        self.axes(out);
        self.names(out);
        let mut last = None;
        for (number, curve) in self.curves.iter().enumerate() {
            let end = self.line(curve, out);
            if number == 0 {
                last = end;
            }
        }
        if let (Some(growth), Some(last)) = (self.growth, last) {
            self.outlook(growth, last, out);
        }
        self.legend(out);
        out.push_str("</svg>");
    }

    /// The thresholds: the highest is named above the drawing, where neither a curve nor its future comes; the others
    /// beside each other, above their line or, where the next one is too near, below it.
    fn names(&self, out: &mut String) {
        let highest = self.thresholds.iter().map(|t| t.percent).max();
        let places = [(LEFT + 3.0, "s"), (0.5 * (LEFT + RIGHT), "m")];
        let mut places = places.into_iter().cycle();
        for Threshold { percent, name } in self.thresholds {
            let y = self.y(f64::from(*percent));
            let next = self.thresholds.iter().find(|t| t.percent > *percent);
            let is_tight = next.is_some_and(|next| y - self.y(f64::from(next.percent)) < NAME);
            let (x, anchor, below) = match (highest == Some(*percent), places.next()) {
                (false, Some((x, anchor))) if is_tight => (x, anchor, y + NAME - 1.0),
                (false, Some((x, anchor))) => (x, anchor, y - 2.0),
                _ => (LEFT + 3.0, "s", TOP - 3.0),
            };
            let _ = write!(
                out,
                "<path class=\"at\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/><text class=\"{anchor}\" x=\"{x}\" y=\"{below:.1}\">{name} {percent} %</text> "
            );
        }
    }

    fn axes(&self, out: &mut String) {
        let unit = self.unit;
        for value in [self.top, self.top / 2.0, 0.0] {
            let y = self.y(value);
            let digits = usize::from(self.top < 10.0);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/><text class=\"e\" x=\"{}\" y=\"{:.1}\">{value:.digits$}{unit}</text> ",
                LEFT - 3.0,
                y + 4.0
            );
        }
        let start = self.start_s();
        for (time, class) in [
            (start, "s"),
            (start + self.past_s() / 2, "m"),
            (self.now_s, "e"),
        ] {
            let text = if time == self.now_s {
                "now".to_owned()
            } else {
                Clock(time).to_string().chars().take(5).collect()
            };
            let x = self.x(time);
            let _ = write!(
                out,
                "<text class=\"{class}\" x=\"{x:.0}\" y=\"{}\">{text}</text> ",
                BOTTOM + 14.0
            );
        }
    }

    /// Draws a curve; where it ends.
    fn line(&self, curve: &Curve, out: &mut String) -> Option<(u64, f64)> {
        let _ = write!(out, "<path class=\"{}\" d=\"", curve.style);
        let mut last: Option<(u64, f64)> = None;
        let mut step: Option<(u64, f64)> = None;
        let (start, length) = (self.start_s(), (self.past_s() / STEPS).max(1));
        let recent = self
            .points
            .iter()
            .filter(|p| (start..=self.now_s).contains(&p.time_s));
        for point in recent {
            let Some(value) = (curve.value)(point) else {
                continue;
            };
            step = match step {
                Some((time, largest)) if point.time_s / length == time / length => {
                    Some((point.time_s, value.max(largest)))
                }
                full => {
                    self.vertex(full, &mut last, out);
                    Some((point.time_s, value))
                }
            };
        }
        self.vertex(step, &mut last, out);
        out.push_str("\"/>");
        last
    }

    /// The next point of a line; after a gap of some minutes a new line begins.
    fn vertex(&self, to: Option<(u64, f64)>, last: &mut Option<(u64, f64)>, out: &mut String) {
        let Some((time, value)) = to else {
            return;
        };
        let is_near = last.is_some_and(|(before, _)| time.saturating_sub(before) <= 130);
        let command = if is_near { 'L' } else { 'M' };
        let _ = write!(out, "{command}{:.1} {:.1}", self.x(time), self.y(value));
        if !is_near {
            out.push_str("h.1"); // a single point is seen too
        }
        *last = Some((time, value));
    }

    fn outlook(&self, growth: f64, (time, value): (u64, f64), out: &mut String) {
        let ahead = self.ahead_s() as f64;
        let then = value + growth * ahead;
        let (x, y) = (self.x(time), self.y(value));
        // Where it leaves the chart, the line ends at the edge, not along it.
        let reach = if then > self.top && growth > 0.0 {
            (self.top - value).max(0.0) / growth
        } else if then < 0.0 && growth < 0.0 {
            value / -growth
        } else {
            ahead
        };
        let end = self.x(time.saturating_add(reach as u64));
        let _ = write!(
            out,
            "<path class=\"next\" d=\"M{x:.1} {y:.1}L{end:.1} {:.1}\"/><path class=\"grid\" d=\"M{x:.1} {TOP}V{BOTTOM}\"/>",
            self.y(value + growth * reach)
        );
    }

    fn legend(&self, out: &mut String) {
        let mut x = LEFT + 6.0;
        for curve in self.curves.iter().filter(|c| !c.name.is_empty()) {
            let _ = write!(
                out,
                "<path class=\"{}\" d=\"M{x} {y}h22\"/><text class=\"s\" x=\"{}\" y=\"{}\">{}</text> ",
                curve.style,
                x + 26.0,
                TOP + 8.0,
                curve.name,
                y = TOP + 4.0
            );
            x += 40.0 + 6.5 * curve.name.len() as f64;
        }
    }
}

/// What a curve of percentages did, in words: "now 81.2 %, an hour ago 40.0 %, highest 82.0 %".
pub fn in_words(points: &[Point], now_s: u64, value: fn(&Point) -> Option<u32>) -> String {
    let start = now_s.saturating_sub(HOUR_S);
    let mut known = points
        .iter()
        .filter(|p| p.time_s >= start)
        .filter_map(|p| Some((p.time_s, value(p)?)));
    let Some((time, first)) = known.next() else {
        return "not known".into();
    };
    let (last, highest) = known.fold((first, first), |(_, highest), (_, v)| (v, highest.max(v)));
    let minutes = now_s.saturating_sub(time) / 60;
    let (last, first, highest) = (Percent(last), Percent(first), Percent(highest));
    format!("now {last} %, {minutes} min ago {first} %, highest {highest} %")
}
