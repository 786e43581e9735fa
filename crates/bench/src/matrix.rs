//! A table of one figure in many configurations, each compared with several alternatives.

use std::fmt::Write;

use crate::report::{Goal, Unit, Verdict, aligned};
use crate::stats::Spread;

/// The rates of some work, in calls or messages per second.
pub(crate) struct Matrix {
    pub(crate) title: &'static str,
    /// What the alternatives are, as the heads of the columns.
    pub(crate) alternatives: Vec<String>,
    pub(crate) rows: Vec<MatrixRow>,
}

pub(crate) struct MatrixRow {
    /// The configuration.
    pub(crate) work: String,
    pub(crate) ours: Vec<f64>,
    /// Each alternative's figures of the same rounds, if it was measured, and the goal for the ratio.
    pub(crate) theirs: Vec<(Vec<f64>, Option<Goal>)>,
}

impl MatrixRow {
    fn verdicts(&self) -> impl Iterator<Item = (Spread, Verdict)> {
        self.theirs.iter().map(|(theirs, goal)| {
            let ratio = Spread::of_ratios(&self.ours, theirs);
            (ratio, goal.map_or(Verdict::None, |goal| goal.judge(f64::NAN, ratio.median)))
        })
    }

    fn cells(&self) -> Vec<String> {
        let ours = Spread::of(self.ours.iter().copied()).median;
        let mut cells = vec![self.work.clone(), Unit::MessagesPerSecond.show(ours)];
        cells.extend(self.verdicts().map(|(ratio, verdict)| {
            let Spread { median, lower, upper } = ratio;
            if median.is_nan() {
                return "skipped".to_owned();
            }
            let mut cell = format!("{median:.2} ({lower:.2} to {upper:.2})");
            if verdict == Verdict::Missed {
                cell.push_str(" MISSED");
            }
            cell
        }));
        cells
    }
}

impl Matrix {
    /// Returns whether a goal is missed.
    pub(crate) fn has_missed(&self) -> bool {
        self.rows.iter().flat_map(MatrixRow::verdicts).any(|(_, it)| it == Verdict::Missed)
    }

    /// Formats the matrix as a section in Markdown.
    pub(crate) fn section(&self) -> String {
        let mut head = vec!["configuration".to_owned(), "tieline".to_owned()];
        head.extend(self.alternatives.iter().map(|name| format!("ratio to {name}")));
        let mut rows = vec![head];
        rows.extend(self.rows.iter().map(MatrixRow::cells));
        let mut text = String::new();
        let _ = write!(text, "## {}\n\n{}", self.title, aligned(rows));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_shows_ratios_and_missed_goals() {
        let row = |goal| MatrixRow {
            work: "8 in flight".to_owned(),
            ours: vec![2000.0, 2000.0],
            theirs: vec![(vec![1000.0, 1000.0], Some(goal)), (Vec::new(), None)],
        };
        let matrix = |bar| Matrix {
            title: "Calls",
            alternatives: vec!["tarpc".to_owned(), "rmcp".to_owned()],
            rows: vec![row(Goal::RatioAtLeast { bar, aim: bar })],
        };
        let (met, missed) = (matrix(2.0), matrix(3.0));
        assert!(!met.has_missed() && missed.has_missed());
        let last = |matrix: &Matrix| matrix.section().lines().last().unwrap_or_default().to_owned();
        assert_eq!(last(&met), "| 8 in flight   | 2 k/s   | 2.00 (2.00 to 2.00) | skipped       |");
        assert!(last(&missed).contains("2.00 (2.00 to 2.00) MISSED"));
    }
}
