//! How tenants share a number of units that each of them could use up alone.
//!
//! Units go to the tenant that holds least, within a tenant in the order of asking. Of two tenants and more none gets all, so that one whose
//! units stay away for long, as those of reads that hang do, keeps no other from its work.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Names one asking; later ones have higher numbers.
pub type Ticket = u64;

/// Units on their way to who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant<K> {
    pub ticket: Ticket,
    pub tenant: K,
    pub units: u32,
}

#[derive(Debug, Default)]
struct Tenant {
    held: u32,
    waiting: VecDeque<(Ticket, u32)>,
}

/// Units, who holds them, and who waits for some.
#[derive(Debug)]
pub struct FairShares<K> {
    units_max: u32,
    /// What a tenant may hold where there are others.
    each_max: u32,
    free: u32,
    last: Ticket,
    tenants: BTreeMap<K, Tenant>,
    /// Tenants that wait: (units held, ticket of the first asking, tenant). The first one's turn comes first.
    turns: BTreeSet<(u32, Ticket, K)>,
}

impl<K: Ord + Copy> FairShares<K> {
    /// All of so many units are free; a tenant that is not the only one has at most `each_max` of them.
    pub fn new(units_max: u32, each_max: u32) -> Self {
        let units_max = units_max.max(1);
        let each_max = each_max.clamp(1, units_max);
        Self { units_max, each_max, free: units_max, last: 0, tenants: BTreeMap::new(), turns: BTreeSet::new() }
    }

    /// There is this tenant: from the second one on, none gets all units.
    pub fn enter(&mut self, tenant: K) {
        self.tenants.entry(tenant).or_default();
    }

    /// Asks for units, for all of them if there are not that many. [`Self::grant`] says when they are there.
    pub fn ask(&mut self, tenant: K, units: u32) -> Ticket {
        self.last += 1;
        let (ticket, units) = (self.last, units.clamp(1, self.units_max));
        self.change(tenant, |tenant| tenant.waiting.push_back((ticket, units)));
        ticket
    }

    /// Who asked has left. False: it was granted before.
    pub fn cancel(&mut self, tenant: K, ticket: Ticket) -> bool {
        self.change(tenant, |tenant| {
            let at = tenant.waiting.iter().position(|(waiting, _)| *waiting == ticket);
            at.and_then(|at| tenant.waiting.remove(at)).is_some()
        })
    }

    /// Granted units come back.
    pub fn give_back(&mut self, tenant: K, units: u32) {
        self.free += units;
        self.change(tenant, |tenant| tenant.held -= units);
    }

    /// The next asking that is granted, if one can be now. To be asked until there is none, after each of the others.
    pub fn grant(&mut self) -> Option<Grant<K>> {
        let most = if self.tenants.len() > 1 { self.each_max } else { self.units_max };
        let mut turns = self.turns.iter().map(|(held, _, tenant)| (*held, *tenant));
        let (tenant, (ticket, units)) = turns.find_map(|(held, tenant)| {
            let first = *self.tenants.get(&tenant)?.waiting.front()?;
            // One page is always granted, however large.
            (held == 0 || held + first.1 <= most).then_some((tenant, first))
        })?;
        // It is this one's turn: who needs less does not overtake it, or it would never come.
        self.free = self.free.checked_sub(units)?;
        self.change(tenant, |tenant| {
            tenant.waiting.pop_front();
            tenant.held += units;
        });
        Some(Grant { ticket, tenant, units })
    }

    /// Units of all tenants.
    pub fn used(&self) -> u32 {
        self.units_max - self.free
    }

    /// Units that there are.
    pub fn units_max(&self) -> u32 {
        self.units_max
    }

    /// Changes a tenant; its place among those who wait follows.
    fn change<T>(&mut self, name: K, change: impl FnOnce(&mut Tenant) -> T) -> T {
        let tenant = self.tenants.entry(name).or_default();
        if let Some((first, _)) = tenant.waiting.front() {
            self.turns.remove(&(tenant.held, *first, name));
        }
        let result = change(tenant);
        if let Some((first, _)) = tenant.waiting.front() {
            self.turns.insert((tenant.held, *first, name));
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain<K: Ord + Copy>(shares: &mut FairShares<K>) -> Vec<Grant<K>> {
        std::iter::from_fn(|| shares.grant()).collect()
    }

    #[test]
    fn a_tenant_alone_has_everything_and_a_second_one_never_waits_for_a_quarter() {
        let mut shares = FairShares::new(8, 6);
        for _ in 0..10 {
            shares.ask('a', 1);
        }
        assert_eq!(drain(&mut shares).len(), 8);
        shares.enter('b');
        shares.give_back('a', 4);
        assert_eq!(drain(&mut shares).len(), 2, "up to three quarters");
        shares.ask('b', 2);
        assert_eq!(drain(&mut shares).len(), 1);
    }

    #[test]
    fn what_comes_back_goes_to_who_holds_least() {
        let mut shares = FairShares::new(8, 6);
        shares.enter('c');
        for tenant in ['a', 'a', 'a', 'b', 'a', 'a', 'b', 'c'] {
            shares.ask(tenant, 2);
        }
        let order: String = drain(&mut shares).iter().map(|grant| grant.tenant).collect();
        assert_eq!(order, "abca");
        shares.give_back('c', 2);
        assert_eq!(drain(&mut shares).iter().map(|grant| grant.tenant).collect::<String>(), "b");
    }

    #[test]
    fn a_large_page_is_not_overtaken_for_ever_and_is_granted_alone() {
        let mut shares = FairShares::new(8, 6);
        shares.enter('b');
        shares.ask('b', 1);
        drain(&mut shares);
        let large = shares.ask('a', 100);
        shares.ask('b', 1);
        assert_eq!(drain(&mut shares), [], "it is a's turn");
        shares.give_back('b', 1);
        let granted = drain(&mut shares);
        assert_eq!((granted.len(), granted[0].ticket, granted[0].units), (1, large, 8));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask(u8, u32),
        Cancel(prop::sample::Index),
        GiveBack(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0u8..4, 0u32..10).prop_map(|(tenant, units)| Step::Ask(tenant, units)),
            1 => any::<prop::sample::Index>().prop_map(Step::Cancel),
            2 => any::<prop::sample::Index>().prop_map(Step::GiveBack),
        ]
    }

    proptest! {
        #[test]
        fn no_unit_is_given_twice_and_none_is_left_to_who_may_have_it(
            steps in prop::collection::vec(step(), 1..200),
            (units_max, each_max) in (1u32..32).prop_flat_map(|most| (Just(most), 1..=most)),
        ) {
            let mut shares = FairShares::new(units_max, each_max);
            (0..4).for_each(|tenant| shares.enter(tenant));
            let mut waiting: Vec<(u8, Ticket, u32)> = Vec::new();
            let mut granted: Vec<Grant<u8>> = Vec::new();
            for step in steps {
                match step {
                    Step::Ask(tenant, units) => {
                        let ticket = shares.ask(tenant, units);
                        waiting.push((tenant, ticket, units.clamp(1, units_max)));
                    }
                    Step::Cancel(at) if !waiting.is_empty() => {
                        let (tenant, ticket, _) = waiting.remove(at.index(waiting.len()));
                        prop_assert!(shares.cancel(tenant, ticket));
                    }
                    Step::GiveBack(at) if !granted.is_empty() => {
                        let grant = granted.remove(at.index(granted.len()));
                        prop_assert!(!shares.cancel(grant.tenant, grant.ticket));
                        shares.give_back(grant.tenant, grant.units);
                    }
                    Step::Cancel(_) | Step::GiveBack(_) => {}
                }
                for grant in drain(&mut shares) {
                    let at = waiting.iter().position(|(_, ticket, _)| *ticket == grant.ticket).unwrap();
                    prop_assert_eq!(waiting.remove(at), (grant.tenant, grant.ticket, grant.units));
                    prop_assert!(waiting.iter().all(|(tenant, ticket, _)| *tenant != grant.tenant || *ticket > grant.ticket));
                    granted.push(grant);
                }
                let used: u32 = granted.iter().map(|grant| grant.units).sum();
                prop_assert_eq!(shares.used(), used);
                prop_assert!(used <= units_max);
                // Nobody who may have units waits, but for those that are kept for who holds less.
                let held = |name: u8| granted.iter().filter(|grant| grant.tenant == name).map(|grant| grant.units).sum::<u32>();
                let first = |name: u8| waiting.iter().find(|(tenant, ..)| *tenant == name);
                let may = (0..4).filter_map(|name| Some((held(name), first(name)?)));
                let may = may.filter(|(held, (_, _, units))| *held == 0 || held + units <= each_max);
                if let Some((_, (_, _, units))) = may.min_by_key(|(held, (_, ticket, _))| (*held, *ticket)) {
                    prop_assert!(*units > units_max - used);
                }
            }
        }
    }
}
