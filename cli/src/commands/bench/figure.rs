//! Figures: what was measured, and how it is printed.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::out::outln;

/// One figure: what was measured, several times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub name: String,
    pub unit: String,
    pub min: Option<f64>,
    pub median: Option<f64>,
    pub max: Option<f64>,
    pub runs: usize,
    /// Under which conditions it was measured.
    pub path: String,
}

impl Figure {
    /// A figure of these runs; with none, it says that it was not measured.
    pub fn new(name: impl Into<String>, unit: impl Into<String>, path: impl Into<String>, mut runs: Vec<f64>) -> Self {
        runs.sort_by(f64::total_cmp);
        let at = |index: usize| runs.get(index).copied().map(rounded);
        let middle = runs.len().saturating_sub(1) / 2;
        let median = at(middle).zip(at(runs.len() / 2)).map(|(below, above)| rounded((below + above) / 2.0));
        let (min, max) = (at(0), at(runs.len().saturating_sub(1)));
        Self { name: name.into(), unit: unit.into(), min, median, max, runs: runs.len(), path: path.into() }
    }
}

/// To four digits: more would say more than was measured.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powf(3.0 - value.abs().log10().floor());
    (value * scale).round() / scale
}

/// Prints figures as they come: one JSON object a line, or a row of a table.
pub(super) struct Printer {
    json: bool,
    /// Only figures of these names; empty: all.
    only: Vec<String>,
    printed: Mutex<Vec<Figure>>,
}

impl Printer {
    /// Prints the table's head, unless it prints JSON.
    pub(super) fn new(json: bool, only: Vec<String>) -> Self {
        if !json {
            outln!("{:<34} {:<10} {:>11} {:>11} {:>11} {:>4}  path", "name", "unit", "min", "median", "max", "runs");
        }
        Self { json, only, printed: Mutex::default() }
    }

    /// Whether somebody wants to see a figure of one of these names.
    pub(super) fn wants(&self, names: &[&str]) -> bool {
        self.only.is_empty() || names.iter().any(|name| self.only.iter().any(|only| only == name))
    }

    /// All figures that were printed.
    pub(super) fn printed(&self) -> Vec<Figure> {
        self.printed.lock().clone()
    }

    /// Prints a figure, if it is wanted.
    pub(super) fn print(&self, figure: &Figure) -> anyhow::Result<()> {
        if !self.wants(&[&figure.name]) {
            return Ok(());
        }
        self.printed.lock().push(figure.clone());
        if self.json {
            outln!("{}", serde_json::to_string(figure)?);
            return Ok(());
        }
        let told = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let Figure { name, unit, min, median, max, runs, path } = figure;
        outln!("{name:<34} {unit:<10} {:>11} {:>11} {:>11} {runs:>4}  {path}", told(*min), told(*median), told(*max));
        Ok(())
    }
}

/// The value below which `share` of the sorted `values` are; None of none.
pub(super) fn quantile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_says_least_middle_and_most_of_its_runs() {
        let figure = Figure::new("x", "ms", "here", vec![3.0, 1.0, 2.0, 10.0]);
        assert_eq!((figure.min, figure.median, figure.max, figure.runs), (Some(1.0), Some(2.5), Some(10.0), 4));
        let none = Figure::new("x", "ms", "here", Vec::new());
        assert_eq!((none.min, none.median, none.max, none.runs), (None, None, None, 0));
        assert!(serde_json::to_string(&none).unwrap().contains(r#""median":null"#));
    }

    #[test]
    fn values_are_rounded_to_four_digits() {
        assert_eq!(Figure::new("x", "", "", vec![123_456.7]).median, Some(123_500.0));
        assert_eq!(Figure::new("x", "", "", vec![0.012_345_6]).median, Some(0.012_35));
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut values, 0.5), Some(50.0));
        assert_eq!(quantile(&mut values, 0.99), Some(99.0));
        assert_eq!(quantile(&mut values, 1.0), Some(100.0));
        assert_eq!(quantile(&mut [], 0.5), None);
    }
}
