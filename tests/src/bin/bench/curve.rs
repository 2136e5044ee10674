//! P9 as curves: a bar per point, as long as what a job costs there.

use crate::measure::Line;

/// The bar of the first point of a curve.
const BAR: f64 = 20.0;

/// The longest bar; what is beyond says so by its figure alone.
const BAR_MAX: usize = 60;

/// The curves that these lines are the points of, each beside its first.
pub(crate) fn curves(lines: &[Line]) -> String {
    let points = lines.iter().flat_map(|line| line.base.as_ref().map(|(first, _)| [first, &line.what])).flatten();
    let width = points.map(|name| name.chars().count()).max().unwrap_or(0);
    let (mut text, mut last) = (String::new(), None);
    for line in lines {
        let (Some((first, _)), Some(ratio)) = (&line.base, line.result().ratio) else { continue };
        if last.replace(first) != Some(first) {
            text += &if text.is_empty() { String::new() } else { "\n".to_owned() };
            text += &bar(first, width, 1.0);
        }
        text += &bar(&line.what, width, 1.0 / ratio);
    }
    text
}

/// One point: its name, its bar, and how often the first point's cost it is.
fn bar(name: &str, width: usize, cost: f64) -> String {
    let length = ((cost * BAR).round() as usize).min(BAR_MAX);
    format!("{name:<width$}  {} {cost:.2}\n", "#".repeat(length))
}
