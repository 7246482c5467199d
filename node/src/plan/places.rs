//! Which namespace is closed for another one, where an agent has as many open as it may.

use std::collections::BTreeMap;

/// An open namespace, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub tenant: u32,
    /// Closed as often as it was opened.
    pub unreferenced: bool,
    /// How long nobody has used it.
    pub idle_ms: u64,
}

/// The place, by its index, that `tenant` gets for another namespace. A tenant with fewer gets one of the tenant with
/// most, used or not; the others one of their own that was not used for `idle_ms_min`. None: there is no such place.
pub fn given_up_for(tenant: u32, open: &[Place], idle_ms_min: u64) -> Option<usize> {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for place in open {
        *counts.entry(place.tenant).or_default() += 1;
    }
    let own = counts.get(&tenant).copied().unwrap_or(0);
    let (largest, most) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    let from = if own + 1 < most { largest } else { tenant };
    let places = open.iter().enumerate().filter(|(_, place)| place.tenant == from);
    let (index, place) = places.max_by_key(|(_, place)| (place.unreferenced, place.idle_ms))?;
    (from != tenant || place.idle_ms >= idle_ms_min).then_some(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: u64 = 30_000;

    fn place(tenant: u32, idle_s: u64) -> Place {
        Place { tenant, unreferenced: false, idle_ms: idle_s * 1000 }
    }

    #[test]
    fn a_tenant_with_many_gives_way_to_one_with_few_and_not_the_other_way_round() {
        let mut open = vec![place(7, 1000), place(1, 1), place(1, 3), place(1, 2)];
        assert_eq!(given_up_for(8, &open, MIN), Some(2), "a newcomer, though they are in use");
        assert_eq!(given_up_for(7, &open, MIN), Some(2));
        assert_eq!(given_up_for(1, &open, MIN), None, "the largest has none that it does not use");
        open[3].idle_ms = MIN;
        assert_eq!(given_up_for(1, &open, MIN), Some(3));
        open[1].unreferenced = true;
        assert_eq!(given_up_for(7, &open, MIN), Some(1), "nobody needs it");
    }

    #[test]
    fn tenants_of_one_size_take_nothing_of_each_other() {
        let open = [place(1, 1), place(2, 1000)];
        assert_eq!(given_up_for(1, &open, MIN), None);
        assert_eq!(given_up_for(2, &open, MIN), Some(1));
        assert_eq!(given_up_for(3, &open, MIN), None, "one each");
        assert_eq!(given_up_for(1, &[], MIN), None);
    }
}
