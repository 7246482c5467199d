//! Records made by hand.

use std::collections::BTreeMap;

use foreword_proto::{PageKey, Revision};

use super::{DiskView, Settings, View};
use crate::cluster::Orders;
use crate::history::{Call, GotPage, History, Outcome, PagePut, PutResult, Record, Target};
use crate::oracle::Oracle;
use crate::oracle::tests::key;
use crate::world::context::SimTime;
use crate::world::l3::L3Counts;

pub(crate) fn history(records: Vec<Record>) -> History {
    let mut history = History::default();
    history.records.extend(records);
    history
}

pub(crate) fn record(client: u32, (invoked, returned): (u64, u64), call: Call, result: Outcome) -> Record {
    Record {
        client,
        agent: Some(1),
        agent_incarnation: 1,
        invoked: SimTime::from_millis(invoked),
        returned: Some(SimTime::from_millis(returned)),
        call,
        result,
    }
}

/// A get of pages by number with the nonces of their shards.
pub(crate) fn got(client: u32, pages: Vec<(u64, Result<Vec<u64>, String>)>) -> Record {
    let keys = pages.iter().map(|(number, _)| key(*number)).collect();
    let page =
        |(number, shards)| GotPage { key: key(number), hit: true, tier: 1, revision: 1, reason: String::new(), shards };
    let pages = pages.into_iter().map(page).collect();
    record(client, (1, 2), Call::Get { namespace: 1, keys, bypass_cache: false }, Outcome::Got { pages })
}

pub(crate) fn published(number: u64, revision: Revision, result: PutResult, at: (u64, u64)) -> Record {
    let call = Call::Publish { namespace: 1, epoch: 1, keys: vec![key(number)], whole: true };
    record(1, at, call, Outcome::Published { outcomes: vec![PagePut { revision, outcome: result }] })
}

/// A lookup of pages by number, answered by a replica with which of them are present.
pub(crate) fn looked_up(
    numbers: &[u64],
    revision: Revision,
    present: &[bool],
    linearizable: bool,
    at: (u64, u64),
) -> Record {
    let keys: Vec<PageKey> = numbers.iter().map(|number| key(*number)).collect();
    let call = Call::Lookup { namespace: 1, keys, min_revision: 0, linearizable, at: Target::Replica(1) };
    let pages = present.iter().take_while(|there| **there).count() as u32;
    let found = Outcome::Found { pages, revision, present: Some(present.to_vec()), locations: None };
    let mut record = record(2, at, call, found);
    record.agent = None;
    record
}

/// A disk without a log to look at.
pub(crate) fn disk(replica: u64, durable_last: Option<u64>) -> DiskView {
    DiskView { replica, directory: (replica as u32, 1), durable_last, covered: None, log: None }
}

/// What there is to see of a world in which nothing runs.
pub(crate) fn view<'a>(oracle: &'a Oracle, history: &'a History, settings: &'a Settings, now_ms: u64) -> View<'a> {
    View {
        now: SimTime::from_millis(now_ms),
        oracle,
        replicas: Vec::new(),
        agents: Vec::new(),
        strays: Vec::new(),
        disks: Vec::new(),
        earshot: BTreeMap::new(),
        orders: Orders::default(),
        trial: None,
        l3: L3Counts::default(),
        disturbed: false,
        agents_stand_still: false,
        history,
        healed_since: Some(SimTime::default()),
        quiet_since: Some(SimTime::default()),
        settings,
    }
}
