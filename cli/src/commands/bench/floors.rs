//! What figures must at least, or at most, be: one line a figure, `NAME >= VALUE` or `NAME <= VALUE`; `#` begins a comment.

use std::path::Path;

use foreword_proto::BadInput;

use super::figure::Figure;

/// What the median of a figure must be.
#[derive(Debug, Clone, PartialEq)]
struct Floor {
    name: String,
    at_least: bool,
    value: f64,
}

/// All that must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Floors(Vec<Floor>);

impl Floors {
    /// Reads a file of floors.
    ///
    /// Errors: `floors`, for a file that cannot be read or a line of another form.
    pub(super) fn read(path: &Path) -> Result<Self, BadInput> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            BadInput::new("floors", format!("a file that can be read, {}: {error}", path.display()))
        })?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, BadInput> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let floors = lines.filter(|line| !line.is_empty()).map(|line| {
            let bad = || BadInput::new("floors", format!("lines such as `NAME >= 5`, got {line:?}"));
            let parts: Vec<&str> = line.split_whitespace().collect();
            let [name, sign @ (">=" | "<="), value] = parts.as_slice() else { return Err(bad()) };
            Ok(Floor { name: (*name).to_owned(), at_least: *sign == ">=", value: value.parse().map_err(|_| bad())? })
        });
        Ok(Self(floors.collect::<Result<_, _>>()?))
    }

    /// What does not hold of these figures, one line each.
    pub(super) fn broken(&self, figures: &[Figure]) -> Vec<String> {
        let broken = |floor: &Floor| {
            let Floor { name, at_least, value } = floor;
            let bound = if *at_least { "at least" } else { "at most" };
            let Some(figure) = figures.iter().find(|figure| figure.name == *name) else {
                return Some(format!("{name}: expected {bound} {value}, it was not measured"));
            };
            let holds = figure.median.is_some_and(|found| if *at_least { found >= *value } else { found <= *value });
            let found = figure.median.map_or_else(|| "nothing".to_owned(), |found| found.to_string());
            (!holds).then(|| format!("{name}: expected {bound} {value} {}, got {found}", figure.unit))
        };
        self.0.iter().filter_map(broken).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_below_its_floor_or_above_its_ceiling_or_missing_is_named() {
        let floors = Floors::parse("# a third\nrate >= 10\n\nslow <= 5 # ms\ngone >= 1\nfine >= 2").unwrap();
        let of = |name, value| Figure::new(name, "u", "", vec![value]);
        let figures = [of("rate", 9.0), of("slow", 5.5), of("fine", 2.0)];
        assert_eq!(
            floors.broken(&figures),
            [
                "rate: expected at least 10 u, got 9",
                "slow: expected at most 5 u, got 5.5",
                "gone: expected at least 1, it was not measured"
            ]
        );
        assert_eq!(floors.broken(&[of("rate", 10.0), of("slow", 1.0), of("gone", 1.0), of("fine", 3.0)]), [""; 0]);
    }

    #[test]
    fn a_line_of_another_form_is_refused() {
        for text in ["rate > 5", "rate >= fast", "rate 5", "rate >= 5 6"] {
            assert_eq!(Floors::parse(text).unwrap_err().field, "floors", "{text}");
        }
    }
}
