//! The table of results, with one line per claim.

use std::fmt::{self, Write};

use crate::stats::Spread;

/// A line of the table.
pub(crate) struct TableLine {
    work: String,
    against: &'static str,
    ours: String,
    theirs: String,
    ratio: Option<Spread>,
    goal: Option<Goal>,
    verdict: Verdict,
}

/// The quantity that a figure measures. The figures are in seconds, bytes, or numbers of things.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Time,
    MessagesPerSecond,
    BytesPerSecond,
    Bytes,
    Pieces,
    /// An average number of things, which need not be an integer.
    Average,
}

/// The goal for the ratio to the other side, or for tieline's own figure.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    RatioAtMost(f64),
    RatioAtLeast { bar: f64, aim: f64 },
    AtMost(f64, Unit),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    /// The ratio reaches the bar, but not the aim beyond it.
    BelowAim,
    Missed,
    /// There is no goal, or no figure.
    None,
}

impl TableLine {
    /// Compares tieline with an alternative, using figures of the same rounds.
    pub(crate) fn compared(
        work: impl Into<String>,
        against: &'static str,
        unit: Unit,
        (ours, theirs): (&[f64], &[f64]),
        goal: impl Into<Option<Goal>>,
    ) -> Self {
        let goal = goal.into();
        let ratio = Spread::of_ratios(ours, theirs);
        let median = |figures: &[f64]| Spread::of(figures.iter().copied()).median;
        let (ours, theirs) = (median(ours), median(theirs));
        Self {
            work: work.into(),
            against,
            ours: unit.show(ours),
            theirs: unit.show(theirs),
            ratio: Some(ratio),
            goal,
            verdict: goal.map_or(Verdict::None, |goal| goal.judge(ours, ratio.median)),
        }
    }

    /// Shows a figure of tieline alone.
    pub(crate) fn alone(
        work: impl Into<String>,
        unit: Unit,
        figure: f64,
        goal: Option<Goal>,
    ) -> Self {
        Self {
            work: work.into(),
            against: "",
            ours: unit.show(figure),
            theirs: String::new(),
            ratio: None,
            goal,
            verdict: goal.map_or(Verdict::None, |goal| goal.judge(figure, f64::NAN)),
        }
    }

    /// Shows that a figure could not be measured, with the reason.
    pub(crate) fn skipped(work: impl Into<String>, why: &str) -> Self {
        Self {
            work: work.into(),
            against: "",
            ours: format!("skipped: {why}"),
            theirs: String::new(),
            ratio: None,
            goal: None,
            verdict: Verdict::None,
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }
}

impl Unit {
    pub(crate) fn show(self, figure: f64) -> String {
        match self {
            Self::Time if figure < 1e-3 => format!("{:.1} µs", figure * 1e6),
            Self::Time if figure < 1.0 => format!("{:.1} ms", figure * 1e3),
            Self::Time => format!("{figure:.0} s"),
            Self::MessagesPerSecond if figure < 1e6 => format!("{:.0} k/s", figure / 1e3),
            Self::MessagesPerSecond => format!("{:.2} M/s", figure / 1e6),
            Self::BytesPerSecond => format!("{:.2} GB/s", figure / 1e9),
            Self::Bytes => format!("{:.1} KiB", figure / 1024.0),
            Self::Pieces => format!("{figure:.0}"),
            Self::Average => format!("{figure:.1}"),
        }
    }
}

impl Goal {
    pub(crate) fn judge(self, ours: f64, ratio: f64) -> Verdict {
        let is_met = match self {
            Self::RatioAtMost(most) => ratio <= most,
            Self::RatioAtLeast { bar, .. } => ratio >= bar,
            Self::AtMost(most, _) => ours <= most,
        };
        match self {
            _ if !is_met => Verdict::Missed,
            Self::RatioAtLeast { aim, .. } if ratio < aim => Verdict::BelowAim,
            _ => Verdict::Met,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::RatioAtMost(most) => write!(f, "≤ {most} ×"),
            Self::RatioAtLeast { bar, aim } if aim > bar => write!(f, "≥ {bar} ×, aim {aim} ×"),
            Self::RatioAtLeast { bar, .. } => write!(f, "≥ {bar} ×"),
            Self::AtMost(most, unit) => write!(f, "≤ {}", unit.show(most)),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::BelowAim => "met, below the aim",
            Self::Missed => "MISSED",
            Self::None => "",
        })
    }
}

const HEAD: [&str; 7] =
    ["work", "tieline", "compared with", "", "ratio (quartiles)", "goal", "verdict"];

/// Formats the lines as a Markdown table with aligned columns.
pub(crate) fn table(lines: &[TableLine]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(lines.iter().map(cells));
    aligned(rows.into_iter().map(Vec::from).collect())
}

/// Formats rows of equal length as a Markdown table with aligned columns. The first one is the head.
pub(crate) fn aligned(mut rows: Vec<Vec<String>>) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width_of = |column| {
        let width = |row: &Vec<String>| row.get(column).map_or(0, |it: &String| it.chars().count());
        rows.iter().map(width).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width_of).collect();
    rows.insert(1, widths.iter().map(|width| "-".repeat(*width)).collect());
    let mut table = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(table, "| {cell:width$} ");
        }
        table.push_str("|\n");
    }
    table
}

fn cells(line: &TableLine) -> [String; HEAD.len()] {
    let ratio = line
        .ratio
        .map(|Spread { median, lower, upper }| format!("{median:.2} ({lower:.2} to {upper:.2})"));
    [
        line.work.clone(),
        line.ours.clone(),
        line.theirs.clone(),
        line.against.to_owned(),
        ratio.unwrap_or_default(),
        line.goal.map(|goal| goal.to_string()).unwrap_or_default(),
        line.verdict.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_judged_by_the_median() {
        use Goal::{AtMost, RatioAtLeast, RatioAtMost};
        for (goal, ours, ratio, expected) in [
            (RatioAtMost(1.15), 9.0, 1.15, Verdict::Met),
            (RatioAtMost(1.15), 9.0, 1.16, Verdict::Missed),
            (RatioAtLeast { bar: 0.8, aim: 0.9 }, 9.0, 0.95, Verdict::Met),
            (RatioAtLeast { bar: 0.8, aim: 0.9 }, 9.0, 0.85, Verdict::BelowAim),
            (RatioAtLeast { bar: 0.8, aim: 0.9 }, 9.0, 0.75, Verdict::Missed),
            (AtMost(100.0, Unit::Pieces), 100.0, f64::NAN, Verdict::Met),
            (AtMost(100.0, Unit::Pieces), 101.0, f64::NAN, Verdict::Missed),
            // A missing figure is not a success.
            (RatioAtMost(2.0), f64::NAN, f64::NAN, Verdict::Missed),
        ] {
            assert_eq!(goal.judge(ours, ratio), expected, "{goal} of {ours}, {ratio}");
        }
    }

    #[test]
    fn figures_are_shown_in_suitable_units() {
        for (unit, figure, shown) in [
            (Unit::Time, 52.14e-6, "52.1 µs"),
            (Unit::Time, 0.0021, "2.1 ms"),
            (Unit::Time, 61.2, "61 s"),
            (Unit::MessagesPerSecond, 33_400.0, "33 k/s"),
            (Unit::MessagesPerSecond, 2.5e6, "2.50 M/s"),
            (Unit::BytesPerSecond, 1.25e9, "1.25 GB/s"),
            (Unit::Bytes, 16384.0, "16.0 KiB"),
            (Unit::Pieces, 99.0, "99"),
            (Unit::Average, 7.04, "7.0"),
        ] {
            assert_eq!(unit.show(figure), shown);
        }
    }

    #[test]
    fn table_is_aligned_markdown() {
        let lines = [
            TableLine::compared(
                "echo",
                "raw",
                Unit::Time,
                (&[2e-6, 2e-6], &[1e-6, 1e-6]),
                Goal::RatioAtMost(1.5),
            ),
            TableLine::alone("crates", Unit::Pieces, 20.0, None),
            TableLine::skipped("instructions", "no valgrind"),
        ];
        let table = table(&lines);
        let rows: Vec<&str> = table.lines().collect();
        assert_eq!(rows.len(), 5);
        assert!(rows[2].contains("2.0 µs") && rows[2].contains("MISSED"), "{table}");
        assert!(rows[4].contains("skipped: no valgrind"), "{table}");
        let width = rows[0].chars().count();
        assert!(rows.iter().all(|row| row.chars().count() == width), "{table}");
    }
}
