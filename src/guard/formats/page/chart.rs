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

#[cfg(test)]
mod tests {
    use super::*;

    /// Five past two.
    const NOW: u64 = 1_795_226_700;
    const MIDDLE: f64 = (LEFT + RIGHT) / 2.0;
    /// About the width of a character of a label.
    const CHARACTER: f64 = 6.0;

    const PKG: Curve = Curve {
        style: "pkg",
        name: "",
        value: |p| p.pkg.map(f64::from),
    };

    /// Points of so many seconds before now.
    fn points(samples: &[(u64, u32)]) -> Vec<Point> {
        samples
            .iter()
            .map(|&(before_s, value)| Point {
                time_s: NOW - before_s,
                pkg: Some(value),
                ..Point::default()
            })
            .collect()
    }

    fn chart(points: &[Point]) -> Chart<'_> {
        Chart {
            summary: "",
            points,
            now_s: NOW,
            top: 100.0,
            unit: "",
            curves: &[PKG],
            thresholds: &[],
            growth: None,
            is_ahead: false,
        }
    }

    fn drawn(chart: &Chart) -> String {
        let mut out = String::new();
        chart.draw(&mut out);
        assert!(!out.contains("NaN") && !out.contains("inf"), "{out}");
        out
    }

    /// The corners of each unbroken line of a style.
    fn lines(picture: &str, style: &str) -> Vec<Vec<(f64, f64)>> {
        let number = |text: &str| text.parse().expect("a number");
        let corner = |text: &str| {
            let (x, y) = text.split_once(' ').expect("two numbers");
            (
                number(x),
                number(y.split(['h', 'H', 'V']).next().unwrap_or(y)),
            )
        };
        let start = format!("<path class=\"{style}\" d=\"");
        picture
            .split(&start)
            .skip(1)
            .filter_map(|path| path.split('"').next())
            .flat_map(|path| path.split('M').skip(1))
            .map(|line| line.split('L').map(corner).collect())
            .collect()
    }

    #[derive(Debug)]
    struct Label<'a> {
        anchor: &'a str,
        x: f64,
        y: f64,
        text: &'a str,
    }

    impl Label<'_> {
        /// Left and right edge.
        fn sides(&self) -> (f64, f64) {
            let width = CHARACTER * self.text.chars().count() as f64;
            let left = match self.anchor {
                "s" => self.x,
                "m" => self.x - width / 2.0,
                _ => self.x - width,
            };
            (left, left + width)
        }

        fn is_over(&self, other: &Label) -> bool {
            let ((left, right), (start, end)) = (self.sides(), other.sides());
            left < end && start < right && (self.y - other.y).abs() < NAME - 2.0
        }
    }

    fn labels(picture: &str) -> Vec<Label<'_>> {
        let texts = picture.split("<text class=\"").skip(1);
        texts
            .map(|text| {
                let parts: Vec<&str> = text.split('"').collect();
                let shown = parts[5].split(['>', '<']).nth(1).expect("a text");
                Label {
                    anchor: parts[0],
                    x: parts[2].parse().expect("a number"),
                    y: parts[4].parse().expect("a number"),
                    text: shown,
                }
            })
            .collect()
    }

    fn assert_readable(picture: &str) {
        let labels = labels(picture);
        for (number, label) in labels.iter().enumerate() {
            let (left, right) = label.sides();
            assert!(
                left >= 0.0 && right <= WIDTH && label.y >= NAME - 2.0 && label.y <= HEIGHT,
                "outside: {label:?}"
            );
            for other in &labels[..number] {
                assert!(!label.is_over(other), "{label:?} over {other:?}");
            }
        }
    }

    #[test]
    fn an_hour_reaches_from_edge_to_edge_and_nothing_to_all_from_the_bottom_to_the_top() {
        let points = points(&[(3600, 0), (1800, 50), (0, 100)]);
        let lines = lines(&drawn(&chart(&points)), "pkg");
        let ends: Vec<_> = lines.iter().map(|line| line[0]).collect();
        assert_eq!(ends, [(LEFT, BOTTOM), (MIDDLE, 70.0), (RIGHT, TOP)]);
    }

    #[test]
    fn a_server_that_started_just_now_is_drawn_within_ten_minutes() {
        for (first_s, x) in [(1200, LEFT), (600, LEFT), (300, MIDDLE)] {
            let points = points(&[(first_s, 0)]);
            let lines = lines(&drawn(&chart(&points)), "pkg");
            assert_eq!(lines, [[(x, BOTTOM)]], "{first_s}");
        }
    }

    #[test]
    fn what_lies_outside_of_the_hour_is_not_drawn_and_what_is_too_large_is_at_the_top() {
        let points = points(&[(3700, 50), (60, 250)]);
        let lines = lines(&drawn(&chart(&points)), "pkg");
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0][0].1, TOP);
    }

    #[test]
    fn a_chart_whose_top_is_nothing_is_flat() {
        let points = points(&[(60, 0), (0, 5)]);
        let picture = drawn(&Chart {
            top: 0.0,
            ..chart(&points)
        });
        let lines = lines(&picture, "pkg");
        assert!(lines[0].iter().all(|(_, y)| *y == BOTTOM), "{picture}");
    }

    #[test]
    fn a_gap_in_the_samples_is_a_gap_in_the_line() {
        let points = points(&[(600, 10), (470, 20), (339, 30), (300, 40)]);
        let corners: Vec<usize> = lines(&drawn(&chart(&points)), "pkg")
            .iter()
            .map(Vec::len)
            .collect();
        assert_eq!(corners, [2, 2]);
    }

    #[test]
    fn a_sample_of_every_second_takes_a_corner_per_step_and_no_peak_is_lost() {
        let samples: Vec<_> = (0..=3600)
            .rev()
            .map(|s| (s, if s == 1001 { 100 } else { 10 }))
            .collect();
        let points = points(&samples);
        let lines = lines(&drawn(&chart(&points)), "pkg");
        assert_eq!(lines.len(), 1);
        let (corners, steps) = (lines[0].len(), STEPS as usize);
        assert!((steps..=steps + 1).contains(&corners), "{corners}");
        assert_eq!(lines[0].iter().filter(|(_, y)| *y == TOP).count(), 1);
    }

    #[test]
    fn a_forecast_goes_on_from_now_to_the_edge_that_it_meets_first() {
        let now = 288.4; // a fifth of the width is the future: 900 seconds
        let points = points(&[(3600, 0), (0, 60)]);
        let forecast = |growth| {
            lines(
                &drawn(&Chart {
                    growth,
                    is_ahead: true,
                    ..chart(&points)
                }),
                "next",
            )
        };
        assert!(forecast(None).is_empty());
        for (growth, end) in [
            (0.0, (RIGHT, 58.4)),
            (0.02, (RIGHT, 37.5)),
            (-0.02, (RIGHT, 79.3)),
            (0.1, (316.7, TOP)),     // 40 more in 400 s
            (-0.1, (330.8, BOTTOM)), // 60 fewer in 600 s
        ] {
            assert_eq!(forecast(Some(growth)), [[(now, 58.4), end]], "{growth}");
        }
    }

    #[test]
    fn a_forecast_from_above_the_chart_stays_at_its_top() {
        let points = points(&[(3600, 0), (0, 150)]);
        for growth in [0.0, 1.0] {
            let picture = drawn(&Chart {
                growth: Some(growth),
                is_ahead: true,
                ..chart(&points)
            });
            let lines = lines(&picture, "next");
            assert!(lines[0].iter().all(|(_, y)| *y == TOP), "{picture}");
        }
    }

    #[test]
    fn the_side_tells_the_top_its_half_and_nothing() {
        for (top, texts) in [
            (100.0, ["100", "50", "0"]),
            (10.0, ["10", "5", "0"]),
            (5.0, ["5.0", "2.5", "0.0"]),
        ] {
            let picture = drawn(&Chart { top, ..chart(&[]) });
            let side = &labels(&picture)[..3];
            assert_eq!([0, 1, 2].map(|at| side[at].text), texts);
            let grid = lines(&picture, "grid");
            for ((label, line), y) in side.iter().zip(grid).zip([TOP, 70.0, BOTTOM]) {
                assert_eq!(line, [(LEFT, y)]);
                assert!((1.0..NAME / 2.0).contains(&(label.y - y)), "{label:?}");
                assert!(label.sides().1 < LEFT, "{label:?}");
            }
            assert_readable(&picture);
        }
    }

    #[test]
    fn the_foot_tells_the_start_the_middle_and_now() {
        let points = points(&[(3600, 0), (0, 60)]);
        let picture = drawn(&chart(&points));
        let foot: Vec<_> = labels(&picture)[3..]
            .iter()
            .map(|label| (label.anchor, label.x, label.text))
            .collect();
        let expected = [
            ("s", LEFT, "01:05"),
            ("m", MIDDLE, "01:35"),
            ("e", RIGHT, "now"),
        ];
        assert_eq!(foot, expected);
    }

    #[test]
    fn each_threshold_is_named_beside_its_line_where_there_is_room() {
        // The name of a line is above it, below it as the next one is near, or above the drawing.
        let (above, below, outside) = (0, 1, 2);
        for (levels, places) in [
            ([70, 80, 97], [above, above, outside]),
            ([80, 90, 98], [above, below, outside]),
            ([85, 90, 95], [below, below, outside]),
            ([20, 50, 95], [above, above, outside]),
        ] {
            let names = ["warning", "refusing starts", "emergency"];
            let thresholds = [0, 1, 2].map(|at| Threshold {
                percent: levels[at],
                name: names[at],
            });
            let picture = drawn(&Chart {
                thresholds: &thresholds,
                ..chart(&[])
            });
            assert_readable(&picture);
            let labels = labels(&picture);
            let named = labels.iter().filter(|label| label.text.contains('%'));
            let lines = lines(&picture, "at");
            assert_eq!(lines.len(), 3);
            for (at, label) in named.enumerate() {
                let (line, share) = (lines[at][0].1, f64::from(levels[at]) / 100.0);
                assert!((line - (BOTTOM - (BOTTOM - TOP) * share)).abs() < 0.1);
                assert_eq!(label.text, format!("{} {} %", names[at], levels[at]));
                let place = match label.y - line {
                    _ if label.y < TOP => outside,
                    down if down > 0.0 && down < NAME - 0.5 => below,
                    down if down < 0.0 && down > -4.0 => above,
                    _ => panic!("far from its line at {line}: {label:?}"),
                };
                assert_eq!(place, places[at], "{levels:?}: {label:?}");
                let (left, right) = label.sides();
                let is_left = left > LEFT && left < LEFT + 10.0;
                assert!(is_left || (left + right) / 2.0 == MIDDLE, "{label:?}");
            }
        }
    }

    #[test]
    fn the_legend_shows_each_named_curve_beside_the_one_before() {
        let curve = |style, name| Curve {
            style,
            name,
            value: |_| None,
        };
        let curves = [
            curve("shm", "new"),
            curve("", ""),
            curve("pkg", "refresh"),
            curve("os", "refused"),
        ];
        let picture = drawn(&Chart {
            curves: &curves,
            ..chart(&[])
        });
        assert_readable(&picture);
        let mut free = LEFT;
        for curve in curves.iter().filter(|curve| !curve.name.is_empty()) {
            let labels = labels(&picture);
            let label = labels.iter().find(|label| label.text == curve.name);
            let (left, right) = label.expect("a name").sides();
            let (dash, _) = lines(&picture, curve.style)[0][0];
            assert!(
                dash > free && left > dash + 22.0 && right < RIGHT,
                "{}",
                curve.name
            );
            free = right;
        }
        assert!(lines(&drawn(&chart(&[])), "pkg").is_empty());
    }

    #[test]
    fn words_say_how_many_minutes_ago_it_was() {
        let points = points(&[(1800, 4000), (0, 8120)]);
        assert_eq!(
            in_words(&points, NOW, |p| p.pkg),
            "now 81.2 %, 30 min ago 40.0 %, highest 81.2 %"
        );
    }
}
