//! A picture of use over time in characters: a few rows of blocks, or of plain characters where blocks cannot be shown.
//! Forbidden here: words and units; the caller writes them beside it.

/// Shares (0 to 1) of points in time, as columns of equal length; each column is the largest share within it, and
/// `None` where nothing is known.
pub fn columns(points: &[(u64, f64)], start_s: u64, end_s: u64, width: usize) -> Vec<Option<f64>> {
    let mut columns = vec![None; width];
    let span = end_s.saturating_sub(start_s).saturating_add(1);
    let inside = points
        .iter()
        .filter(|(time, _)| (start_s..=end_s).contains(time));
    for (time, share) in inside {
        let at = u128::from(time - start_s) * width as u128 / u128::from(span);
        if let Some(column) = columns.get_mut(at as usize) {
            *column = Some(column.map_or(*share, |largest: f64| largest.max(*share)));
        }
    }
    columns
}

/// The picture's rows, the highest first. Something that is known is never drawn as nothing.
pub fn rows(columns: &[Option<f64>], height: usize, is_plain: bool) -> Vec<String> {
    let blocks: &[char] = match is_plain {
        true => &[' ', '.', ':', '#'],
        false => &[' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
    };
    let steps = blocks.len().saturating_sub(1);
    let filled = |share: &Option<f64>| {
        share.map_or(0, |share| {
            let whole = (height * steps) as f64;
            ((share.clamp(0.0, 1.0) * whole).round() as usize).max(1)
        })
    };
    (0..height)
        .rev()
        .map(|row| {
            let cells = columns.iter().map(|share| {
                let level = filled(share).saturating_sub(row * steps).min(steps);
                blocks.get(level).copied().unwrap_or(' ')
            });
            cells.collect::<String>().trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_the_largest_share_of_its_time() {
        let points: Vec<(u64, f64)> = (100..200).map(|t| (t, t as f64 / 200.0)).collect();
        let found = columns(&points, 100, 199, 10);
        assert_eq!(found.len(), 10);
        assert_eq!(found[0], Some(109.0 / 200.0));
        assert_eq!(found[9], Some(199.0 / 200.0));
        assert_eq!(columns(&points, 300, 400, 2), [None, None]);
        assert_eq!(columns(&points, 150, 150, 3), [Some(0.75), None, None]);
        assert_eq!(columns(&[(5, 0.5)], 0, u64::MAX, 4)[0], Some(0.5));
    }

    #[test]
    fn a_rise_is_drawn_from_the_bottom_to_the_top() {
        let rise: Vec<Option<f64>> = [0.0, 0.25, 0.5, 1.0].map(Some).to_vec();
        assert_eq!(rows(&rise, 2, false), ["   █", "▁▄██"]);
        assert_eq!(
            rows(&rise, 2, true),
            ["   #", "..##"].map(|r| r.replace("..", ".:"))
        );
        assert_eq!(rows(&[None, Some(f64::NAN)], 1, false), [" ▁"]);
    }
}
