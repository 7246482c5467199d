//! How tenants, and the namespaces of each, share a number of units that each of them could use up alone.
//!
//! Units go to the tenant that holds least, within a tenant to the namespace that holds least, and there in the order
//! of asking. Of two tenants and more none gets all, and of a tenant's namespaces neither, so that one whose units stay
//! away for long, as those of reads that hang or of pages that do not get whole, keeps no other from its work.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Names one asking; later ones have higher numbers.
pub type Ticket = u64;

/// Who asks: a namespace of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asker {
    pub tenant: u32,
    pub namespace: u32,
}

/// Units on their way to who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    pub ticket: Ticket,
    pub asker: Asker,
    pub units: u32,
}

#[derive(Debug, Default)]
struct Tenant {
    held: u32,
    namespaces: u32,
}

#[derive(Debug, Default)]
struct Namespace {
    held: u32,
    /// Entered so many times more often than left.
    entered: u32,
    waiting: VecDeque<(Ticket, u32)>,
}

/// Units, who holds them, and who waits for some.
#[derive(Debug)]
pub struct FairShares {
    units_max: u32,
    /// What a tenant may hold where there are others.
    each_max: u32,
    free: u32,
    last: Ticket,
    tenants: BTreeMap<u32, Tenant>,
    namespaces: BTreeMap<Asker, Namespace>,
    /// Those of them that wait.
    waiting: BTreeSet<Asker>,
}

impl FairShares {
    /// All of so many units are free; a tenant that is not the only one has at most `each_max` of them, and a namespace
    /// that is not its tenant's only one the same part of that.
    pub fn new(units_max: u32, each_max: u32) -> Self {
        let units_max = units_max.max(1);
        let each_max = each_max.clamp(1, units_max);
        Self {
            units_max,
            each_max,
            free: units_max,
            last: 0,
            tenants: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            waiting: BTreeSet::new(),
        }
    }

    /// There is this namespace: from the second one on, none gets all units.
    pub fn enter(&mut self, asker: Asker) {
        self.namespace(asker).entered += 1;
    }

    /// Ends one [`Self::enter`]; what it holds and asked for stays.
    pub fn leave(&mut self, asker: Asker) {
        let namespace = self.namespace(asker);
        namespace.entered = namespace.entered.saturating_sub(1);
        self.forget_idle(asker);
    }

    /// Asks for units, for all of them if there are not that many. [`Self::grant`] says when they are there.
    pub fn ask(&mut self, asker: Asker, units: u32) -> Ticket {
        self.last += 1;
        let (ticket, units) = (self.last, units.clamp(1, self.units_max));
        self.namespace(asker).waiting.push_back((ticket, units));
        self.waiting.insert(asker);
        ticket
    }

    /// Who asked has left. False: it was granted before.
    pub fn cancel(&mut self, asker: Asker, ticket: Ticket) -> bool {
        let Some(namespace) = self.namespaces.get_mut(&asker) else { return false };
        // They stand in the order of asking.
        let at = namespace.waiting.binary_search_by_key(&ticket, |(waiting, _)| *waiting);
        let cancelled = at.ok().and_then(|at| namespace.waiting.remove(at)).is_some();
        self.forget_idle(asker);
        cancelled
    }

    /// Granted units come back.
    pub fn give_back(&mut self, asker: Asker, units: u32) {
        self.free += units;
        self.namespace(asker).held -= units;
        self.tenants.entry(asker.tenant).or_default().held -= units;
        self.forget_idle(asker);
    }

    /// The next asking that is granted, if one can be now. To be asked until there is none, after each of the others.
    pub fn grant(&mut self) -> Option<Grant> {
        let may = self.waiting.iter().filter_map(|asker| self.turn_of(*asker));
        let (_, _, ticket, asker, units) = may.min()?;
        // It is this one's turn: who needs less does not overtake it, or it would never come.
        self.free = self.free.checked_sub(units)?;
        let namespace = self.namespace(asker);
        namespace.waiting.pop_front();
        namespace.held += units;
        self.tenants.entry(asker.tenant).or_default().held += units;
        self.forget_idle(asker);
        Some(Grant { ticket, asker, units })
    }

    /// Units of all tenants.
    pub fn used(&self) -> u32 {
        self.units_max - self.free
    }

    /// What a namespace asked for first, if it may have that: (units of its tenant, its own, ticket, itself, units
    /// asked for).
    fn turn_of(&self, asker: Asker) -> Option<(u32, u32, Ticket, Asker, u32)> {
        let (tenant, namespace) = (self.tenants.get(&asker.tenant)?, self.namespaces.get(&asker)?);
        let (ticket, units) = *namespace.waiting.front()?;
        let tenants_max = if self.tenants.len() > 1 { self.each_max } else { self.units_max };
        let part = |of: u32| (u64::from(of) * u64::from(self.each_max) / u64::from(self.units_max)) as u32;
        let namespaces_max = if tenant.namespaces > 1 { part(tenants_max) } else { tenants_max };
        // One page is always granted, however large.
        let fits = |held: u32, most: u32| held == 0 || held + units <= most;
        let may = fits(tenant.held, tenants_max) && fits(namespace.held, namespaces_max);
        may.then_some((tenant.held, namespace.held, ticket, asker, units))
    }

    fn namespace(&mut self, asker: Asker) -> &mut Namespace {
        self.namespaces.entry(asker).or_insert_with(|| {
            self.tenants.entry(asker.tenant).or_default().namespaces += 1;
            Namespace::default()
        })
    }

    /// A namespace that waits for nothing is not looked at; one that is closed here and holds nothing counts no more.
    fn forget_idle(&mut self, asker: Asker) {
        let Some(namespace) = self.namespaces.get(&asker).filter(|namespace| namespace.waiting.is_empty()) else {
            return;
        };
        let idle = namespace.held == 0 && namespace.entered == 0;
        self.waiting.remove(&asker);
        if !idle {
            return;
        }
        self.namespaces.remove(&asker);
        let left = self.tenants.get_mut(&asker.tenant).map(|tenant| {
            tenant.namespaces -= 1;
            tenant.namespaces
        });
        if left == Some(0) {
            self.tenants.remove(&asker.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drain(shares: &mut FairShares) -> Vec<Grant> {
        std::iter::from_fn(|| shares.grant()).collect()
    }

    /// The only namespace of a tenant.
    fn only(tenant: u32) -> Asker {
        Asker { tenant, namespace: tenant }
    }

    fn tenants(granted: &[Grant]) -> Vec<u32> {
        granted.iter().map(|grant| grant.asker.tenant).collect()
    }

    #[test]
    fn a_tenant_alone_has_everything_and_a_second_one_never_waits_for_a_quarter() {
        let mut shares = FairShares::new(8, 6);
        for _ in 0..10 {
            shares.ask(only(1), 1);
        }
        assert_eq!(drain(&mut shares).len(), 8);
        shares.enter(only(2));
        shares.give_back(only(1), 4);
        assert_eq!(drain(&mut shares).len(), 2, "up to three quarters");
        shares.ask(only(2), 2);
        assert_eq!(drain(&mut shares).len(), 1);
        for _ in 0..4 {
            shares.ask(only(1), 1);
        }
        assert_eq!(drain(&mut shares), []);
        shares.give_back(only(2), 2);
        assert_eq!(drain(&mut shares), [], "it may ask again");
        shares.leave(only(2));
        assert_eq!(drain(&mut shares).len(), 2, "alone again");
    }

    #[test]
    fn a_namespace_leaves_some_of_its_tenants_units_to_the_others() {
        let mut shares = FairShares::new(16, 12);
        let [stuck, works] = [1, 2].map(|namespace| Asker { tenant: 1, namespace });
        shares.enter(works);
        for _ in 0..20 {
            shares.ask(stuck, 1);
        }
        assert_eq!(drain(&mut shares).len(), 12);
        shares.ask(works, 4);
        assert_eq!(drain(&mut shares).len(), 1);
        shares.enter(only(2));
        shares.give_back(stuck, 5);
        assert_eq!(drain(&mut shares).len(), 1, "three quarters of three quarters are 9, the tenant has 11");
    }

    #[test]
    fn what_comes_back_goes_to_who_holds_least() {
        let mut shares = FairShares::new(8, 6);
        shares.enter(only(3));
        for tenant in [1, 1, 1, 2, 1, 1, 2, 3] {
            shares.ask(only(tenant), 2);
        }
        assert_eq!(tenants(&drain(&mut shares)), [1, 2, 3, 1]);
        shares.give_back(only(3), 2);
        assert_eq!(tenants(&drain(&mut shares)), [2]);
    }

    #[test]
    fn a_large_page_is_not_overtaken_for_ever_and_is_granted_alone() {
        let mut shares = FairShares::new(8, 6);
        shares.ask(only(2), 1);
        drain(&mut shares);
        let large = shares.ask(only(1), 100);
        shares.ask(only(2), 1);
        assert_eq!(drain(&mut shares), [], "its turn is the large page's");
        shares.give_back(only(2), 1);
        let granted = drain(&mut shares);
        assert_eq!((granted.len(), granted[0].ticket, granted[0].units), (1, large, 8));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Ask(u32, u32, u32),
        Cancel(prop::sample::Index),
        GiveBack(prop::sample::Index),
        Enter(u32, u32),
        Leave(u32, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u32..3, 0u32..3, 0u32..10).prop_map(|(tenant, namespace, units)| Step::Ask(tenant, namespace, units)),
            2 => any::<prop::sample::Index>().prop_map(Step::Cancel),
            4 => any::<prop::sample::Index>().prop_map(Step::GiveBack),
            1 => (0u32..3, 0u32..3).prop_map(|(tenant, namespace)| Step::Enter(tenant, namespace)),
            1 => (0u32..3, 0u32..3).prop_map(|(tenant, namespace)| Step::Leave(tenant, namespace)),
        ]
    }

    proptest! {
        #[test]
        fn no_unit_is_given_twice_and_none_is_left_to_who_may_have_it(
            steps in prop::collection::vec(step(), 1..200),
            (units_max, each_max) in (1u32..32).prop_flat_map(|most| (Just(most), 1..=most)),
        ) {
            let mut shares = FairShares::new(units_max, each_max);
            let mut waiting: Vec<(Asker, Ticket, u32)> = Vec::new();
            let mut granted: Vec<Grant> = Vec::new();
            for step in steps {
                match step {
                    Step::Ask(tenant, namespace, units) => {
                        let asker = Asker { tenant, namespace };
                        let ticket = shares.ask(asker, units);
                        waiting.push((asker, ticket, units.clamp(1, units_max)));
                    }
                    Step::Cancel(at) if !waiting.is_empty() => {
                        let (asker, ticket, _) = waiting.remove(at.index(waiting.len()));
                        prop_assert!(shares.cancel(asker, ticket));
                    }
                    Step::GiveBack(at) if !granted.is_empty() => {
                        let grant = granted.remove(at.index(granted.len()));
                        prop_assert!(!shares.cancel(grant.asker, grant.ticket));
                        shares.give_back(grant.asker, grant.units);
                    }
                    Step::Enter(tenant, namespace) => shares.enter(Asker { tenant, namespace }),
                    Step::Leave(tenant, namespace) => shares.leave(Asker { tenant, namespace }),
                    Step::Cancel(_) | Step::GiveBack(_) => {}
                }
                for grant in drain(&mut shares) {
                    let at = waiting.iter().position(|(_, ticket, _)| *ticket == grant.ticket).unwrap();
                    prop_assert_eq!(waiting.remove(at), (grant.asker, grant.ticket, grant.units));
                    let later = |(asker, ticket, _): &(Asker, Ticket, u32)| *asker != grant.asker || *ticket > grant.ticket;
                    prop_assert!(waiting.iter().all(later));
                    granted.push(grant);
                }
                let used: u32 = granted.iter().map(|grant| grant.units).sum();
                prop_assert_eq!(shares.used(), used);
                prop_assert!(used <= units_max);
                // Who holds nothing, nor does its tenant, waits for the free units only: nothing is kept from it.
                let idle = |asker: Asker| granted.iter().all(|grant| grant.asker.tenant != asker.tenant);
                let first = waiting.iter().find(|(asker, ..)| idle(*asker));
                prop_assert!(first.is_none_or(|_| waiting.iter().any(|(_, _, units)| *units > units_max - used)));
                // Nobody is remembered who neither holds, nor waits, nor is there.
                prop_assert!(shares.waiting.iter().all(|asker| waiting.iter().any(|(waits, ..)| waits == asker)));
            }
            for grant in granted {
                shares.give_back(grant.asker, grant.units);
                drain(&mut shares).into_iter().for_each(|grant| shares.give_back(grant.asker, grant.units));
            }
            drain(&mut shares).into_iter().for_each(|grant| shares.give_back(grant.asker, grant.units));
            prop_assert_eq!(shares.used(), 0);
        }
    }
}
