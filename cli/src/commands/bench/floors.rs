//! What figures must at least, or at most, be: one line a figure, `NAME >= VALUE` or `NAME <= VALUE`; `#` begins a
//! comment.

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
            let named: Vec<&Figure> = figures.iter().filter(|figure| figure.name == *name).collect();
            // What a machine cannot measure is null: of several of a name, some must be there.
            if named.iter().all(|figure| figure.median.is_none()) {
                return vec![format!("{name}: expected {bound} {value}, it was not measured")];
            }
            let holds = |found: f64| if *at_least { found >= *value } else { found <= *value };
            let of = |figure: &Figure| {
                let found = figure.median.filter(|found| !holds(*found))?;
                Some(format!("{name}: expected {bound} {value} {}, got {found} ({})", figure.unit, figure.path))
            };
            named.into_iter().filter_map(of).collect()
        };
        self.0.iter().flat_map(broken).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_below_its_floor_or_above_its_ceiling_or_missing_is_named() {
        let floors = Floors::parse("# a third\nrate >= 10\n\nslow <= 5 # ms\ngone >= 1\nfine >= 2").unwrap();
        let of = |name, value| Figure::new(name, "u", "here", vec![value]);
        let figures = [of("rate", 9.0), of("slow", 5.5), of("fine", 2.0)];
        assert_eq!(
            floors.broken(&figures),
            [
                "rate: expected at least 10 u, got 9 (here)",
                "slow: expected at most 5 u, got 5.5 (here)",
                "gone: expected at least 1, it was not measured"
            ]
        );
        assert_eq!(floors.broken(&[of("rate", 10.0), of("slow", 1.0), of("gone", 1.0), of("fine", 3.0)]), [""; 0]);
    }

    #[test]
    fn a_floor_holds_for_all_figures_of_its_name_that_were_measured() {
        let floors = Floors::parse("slow <= 5").unwrap();
        let of = |path: &str, runs: &[f64]| Figure::new("slow", "ms", path, runs.to_vec());
        let figures = [of("a", &[4.0]), of("b", &[6.0]), of("c", &[])];
        assert_eq!(floors.broken(&figures), ["slow: expected at most 5 ms, got 6 (b)"]);
        assert_eq!(floors.broken(&figures[..1]), [""; 0]);
        assert_eq!(floors.broken(&figures[2..]), ["slow: expected at most 5, it was not measured"]);
    }

    #[test]
    fn a_line_of_another_form_is_refused() {
        for text in ["rate > 5", "rate >= fast", "rate 5", "rate >= 5 6"] {
            assert_eq!(Floors::parse(text).unwrap_err().field, "floors", "{text}");
        }
    }
}
