//! A flame graph of folded stacks as a static SVG: what is held, by the way it was reached.
//! Forbidden here: scripts, anything that is loaded, unescaped foreign text, more than [`MOST_BYTES`].
//!
//! Calls lie above the calls that made them; the width is what is held there. Two colours tell Kamailio's core and the
//! libraries from its modules, and so do the names. Who does not see it hears the title and the largest ways in words.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::guard::formats::page::markup::{Count, Cut};
use crate::guard::terms::text::Bytes;

/// What the picture of everything is of.
pub const SUBJECT: &str = "What this server holds, by the way it was reached";
/// Longest picture.
pub const MOST_BYTES: usize = 100_000;
/// The media type.
pub const CONTENT_TYPE: &str = "image/svg+xml; charset=utf-8";

/// What is kept for the end of the picture, and more than one call of it takes.
const END: usize = 64;
const CALL: usize = 700;
/// Size in the picture's own units.
const WIDTH: f64 = 1200.0;
const ROW: f64 = 18.0;
const TOP: f64 = 44.0;
/// Narrower calls are not drawn.
const NARROWEST: f64 = 1.5;
/// About the width of one character.
const CHARACTER: f64 = 6.6;
/// Calls that lie above each other, at most.
const DEEPEST: usize = 64;
/// Ways that are told in words.
const TOLD: usize = 8;
/// Longest name of a call in the picture's texts.
const NAME: usize = 90;

/// A call with what is held above it.
#[derive(Default)]
struct Call<'a> {
    bytes: u64,
    above: BTreeMap<&'a str, Call<'a>>,
}

/// A call where it is drawn.
struct Drawn<'a> {
    name: &'a str,
    bytes: u64,
    x: f64,
    width: f64,
    depth: usize,
}

/// The picture. `subject` says what it is of, as a sentence; folded stacks are as [`super::folded`] makes them.
pub fn flame(folded: &str, subject: &str) -> String {
    let stacks: Vec<(Vec<&str>, u64)> = folded.lines().filter_map(stack).collect();
    let mut root = Call::default();
    for (calls, bytes) in &stacks {
        let mut at = &mut root;
        at.bytes = at.bytes.saturating_add(*bytes);
        for name in calls.iter().take(DEEPEST) {
            at = at.above.entry(name).or_default();
            at.bytes = at.bytes.saturating_add(*bytes);
        }
    }
    let mut drawn = Vec::new();
    place(
        &root,
        (0.0, WIDTH / root.bytes.max(1) as f64),
        0,
        &mut drawn,
    );
    // The widest first: should there be too many for the picture, the narrowest are left out.
    drawn.sort_by(|a, b| b.width.total_cmp(&a.width).then(a.depth.cmp(&b.depth)));
    let deepest = drawn.iter().map(|call| call.depth + 1).max().unwrap_or(1);
    let height = TOP + ROW * deepest as f64 + 6.0;
    let mut out = String::with_capacity(MOST_BYTES);
    // Writing to a String cannot fail.
    let _ = head(&mut out, height, root.bytes, subject, &stacks);
    let mut left_out = 0;
    for call in &drawn {
        if out.len() + CALL + END > MOST_BYTES {
            left_out += 1;
            continue;
        }
        let _ = draw(&mut out, call, root.bytes, height);
    }
    if left_out > 0 {
        let _ = write!(out, "<!-- {left_out} narrow calls are not drawn -->");
    }
    out.push_str("</svg>\n");
    out
}

/// The calls of one line, outermost first, and its bytes.
fn stack(line: &str) -> Option<(Vec<&str>, u64)> {
    let (calls, bytes) = line.rsplit_once(' ')?;
    Some((calls.split(';').collect(), bytes.parse().ok()?))
}

fn place<'a>(call: &Call<'a>, (start, scale): (f64, f64), depth: usize, out: &mut Vec<Drawn<'a>>) {
    let mut x = start;
    for (name, above) in &call.above {
        let width = above.bytes as f64 * scale;
        if width >= NARROWEST {
            out.push(Drawn {
                name,
                bytes: above.bytes,
                x,
                width,
                depth,
            });
            place(above, (x, scale), depth + 1, out);
        }
        x += width;
    }
}

fn head(
    out: &mut String,
    height: f64,
    bytes: u64,
    subject: &str,
    stacks: &[(Vec<&str>, u64)],
) -> std::fmt::Result {
    write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"t d\">\n\
         <title id=\"t\">{}: {}</title>\n<desc id=\"d\">",
        Cut(subject, 200),
        Bytes(bytes)
    )?;
    let mut largest: Vec<_> = stacks.iter().collect();
    largest.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    for (calls, held) in largest.iter().take(TOLD) {
        let pool = calls.first().copied().unwrap_or_default();
        let inner = calls.len().saturating_sub(3).max(1);
        let inner = calls.get(inner..).unwrap_or_default().join(", from there ");
        write!(
            out,
            "{} in {} through {}. ",
            Bytes(*held),
            Cut(pool, NAME),
            Cut(inner, 3 * NAME)
        )?;
    }
    if stacks.is_empty() {
        out.push_str("Nothing that was noted is held.");
    }
    write!(
        out,
        "</desc>\n<style>text{{font:11px ui-monospace,monospace;fill:#1b1b1b}}.h{{font:14px system-ui,sans-serif}}\
         rect{{stroke:#fff;stroke-width:.6}}.c rect{{fill:#d9dee3}}.m rect{{fill:#ffb74d}}\
         svg{{background:#fff}}</style>\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\
         <text class=\"h\" x=\"6\" y=\"18\">{}: {}</text>\
         <text x=\"6\" y=\"35\">orange: a module; grey: Kamailio's core and libraries. A call stands above its caller; \
         point at one for its name and bytes.</text>\n",
        Cut(subject, 140),
        Bytes(bytes)
    )
}

fn draw(out: &mut String, call: &Drawn, all: u64, height: f64) -> std::fmt::Result {
    let y = height - 6.0 - ROW * (call.depth + 1) as f64;
    let share = 1000.0 * call.bytes as f64 / all.max(1) as f64;
    let (name, x, width) = (Cut(call.name, NAME), call.x, call.width);
    let class = if is_module(call.name, call.depth) {
        'm'
    } else {
        'c'
    };
    write!(
        out,
        "<g class=\"{class}\"><title>{name}: {} bytes, {:.1} %</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{ROW}\"/>",
        Count(call.bytes),
        share / 10.0
    )?;
    let room = (width / CHARACTER) as usize;
    if room > 3 {
        write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x + 3.0,
            y + 12.5,
            Cut(call.name, room - 2)
        )?;
    }
    out.push_str("</g>\n");
    Ok(())
}

/// Whether a call is a Kamailio module's: neither the pool, nor the core's, nor a library's, nor only an address.
fn is_module(name: &str, depth: usize) -> bool {
    let binary = name.split([' ', '+']).next().unwrap_or(name);
    depth > 0 && binary != "core" && !binary.contains(".so") && !binary.starts_with("0x")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAK: &str = "pkg;core main;core do_action 10\n\
        shm;core main;core run_actions;htable ht_set_cell_ex;htable ht_cell_new (ht_api.c:186) 90\n";

    #[test]
    fn a_call_is_as_wide_as_what_is_held_above_it_and_says_so_in_words() {
        let picture = flame(LEAK, "What <this> server holds");
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
        assert!(
            picture.contains("<title id=\"t\">What &lt;this&gt; server holds: 100 B</title>"),
            "{picture}"
        );
        assert!(picture.contains("90 B in shm through core run_actions, from there htable ht_set_cell_ex, from there htable ht_cell_new (ht_api.c:186)."), "{picture}");
        assert!(picture.contains("<g class=\"m\"><title>htable ht_set_cell_ex: 90 bytes, 90.0 %</title><rect x=\"120.0\""), "{picture}");
        assert!(
            picture.contains("<g class=\"c\"><title>core do_action: 10 bytes, 10.0 %</title>"),
            "{picture}"
        );
        assert!(!picture.contains("<script") && !picture.contains("href"));
        assert!(flame("", "Nothing").contains("Nothing that was noted is held."));
    }

    #[test]
    fn whatever_there_is_the_picture_stays_small_and_shows_the_widest() {
        let mut folded = String::new();
        for i in 0..3000u64 {
            let _ = write!(folded, "shm;core main");
            for depth in 0..40u64 {
                let _ = write!(
                    folded,
                    ";module{} <&\"> function_with_a_long_name_{}_{}",
                    i % 7,
                    (i * 31 + depth) % 97,
                    "x".repeat(60)
                );
            }
            let _ = writeln!(folded, " {}", 1000 + i);
        }
        folded.push_str("shm;core main;usrloc the_large_one 90000000\n");
        let picture = flame(&folded, "Everything");
        assert!(picture.len() <= MOST_BYTES, "{}", picture.len());
        assert!(picture.contains("<title>usrloc the_large_one: 90,000,000 bytes"));
        for (opens, closes) in [
            ("<g ", "</g>"),
            ("<text", "</text>"),
            ("<title", "</title>"),
        ] {
            assert_eq!(
                picture.matches(opens).count(),
                picture.matches(closes).count(),
                "{opens}"
            );
        }
        assert!(
            !picture.contains("<&") && !picture.contains("<\">"),
            "foreign text is no markup"
        );
    }

    /// x, y, width and height of each call's rectangle, and of the whole picture first.
    fn rectangles(picture: &str) -> Vec<[f64; 4]> {
        let number = |text: &str| text.parse::<f64>().expect("a number");
        let (_, view) = picture.split_once("viewBox=\"0 0 ").expect("a size");
        let (width, height) = view.split_once(' ').expect("two numbers");
        let height = height.split('"').next().unwrap_or_default();
        let calls = picture.split("<rect x=\"").skip(1).map(|rect| {
            let parts: Vec<&str> = rect.split('"').collect();
            [0, 2, 4, 6].map(|at| number(parts[at]))
        });
        std::iter::once([0.0, 0.0, number(width), number(height)])
            .chain(calls)
            .collect()
    }

    #[test]
    fn calls_fill_their_rows_and_stay_within_the_picture() {
        let picture = flame(LEAK, "Everything");
        let all = rectangles(&picture);
        let [_, _, width, height] = all[0];
        assert_eq!(height, TOP + 5.0 * ROW + 6.0, "five rows");
        for [x, y, wide, high] in &all[1..] {
            assert!(*x >= 0.0 && x + wide <= width, "{x} {wide}");
            assert!(*y >= TOP && y + high <= height, "{y} {high}");
        }
        let in_row = |depth: usize| -> f64 {
            let y = height - 6.0 - ROW * (depth + 1) as f64;
            let row = all[1..].iter().filter(|call| call[1] == y);
            row.map(|call| call[2]).sum()
        };
        assert_eq!(
            [0, 1, 2, 3, 4].map(in_row),
            [WIDTH, WIDTH, WIDTH, 1080.0, 1080.0]
        );
    }

    #[test]
    fn a_narrow_call_has_no_text_and_a_wider_ones_is_cut_to_its_room() {
        let name = "core a_function_with_a_long_name";
        // Of 1200 units: three characters' room, four characters', and all of it.
        for (bytes, text) in [(24, None), (27, Some("co…")), (1200, Some(name))] {
            let folded = format!("{name} {bytes}\nb {}\n", 1200 - bytes);
            let picture = flame(&folded, "Everything");
            let (_, call) = picture
                .split_once(&format!("<title>{name}"))
                .expect("a call");
            let call = call.split("</g>").next().unwrap_or_default();
            let shown = call
                .split_once("<text ")
                .and_then(|(_, text)| text.split(['>', '<']).nth(1));
            assert_eq!(shown, text, "{bytes}");
        }
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let mut folded = String::new();
        for i in 0..500 {
            let _ = writeln!(folded, "call{i}{} 100", "&".repeat(80));
        }
        let picture = flame(&folded, "Everything");
        assert!(picture.len() > MOST_BYTES - CALL - END);
        let drawn = picture.matches("<g ").count();
        let left_out = format!("<!-- {} narrow calls are not drawn -->", 500 - drawn);
        assert!(picture.contains(&left_out), "{drawn}");
        assert!(!flame(LEAK, "Everything").contains("not drawn"));
    }
}
