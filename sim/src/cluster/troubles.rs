//! What goes wrong on the machines of a cluster, when it is due.

use std::time::Duration;

use super::conditions::Conditions;
use super::machines::Role;
use super::replica::ReplicaParts;
use super::{Cluster, Lies, Seat, Trial};
use crate::faults::kind::{Place, Replica};
use crate::faults::{Fault, FaultKind};
use crate::world::context::{self, Kind};
use crate::world::disk::DiskFault;
use crate::world::files::FilesWeather;
use crate::world::net::HostId;

/// Resets between two hosts come this often while that fault lasts.
const RESETS_EVERY_MS: u64 = 300;
/// Entries that a lost tail has, at most.
const LOST_ITEMS_MAX: u64 = 8;
/// A sync of a fair disk takes up to so long, in microseconds.
const SYNC_US_MAX: u64 = 3_000;
/// With disks that are no slower, a group goes on as if nothing were.
const STEADY_SYNC_MS: u64 = 60;
/// After a flood came, its callers have left or are answered.
const FLOOD_BOUND: Duration = Duration::from_secs(4);

/// A fault that is under way.
#[derive(Debug, Clone)]
pub(super) struct Active {
    pub(super) fault: Fault,
    /// Who led when it began, if that decides whom it hits.
    pub(super) leader: Replica,
}

impl Cluster {
    pub(super) fn change_faults(&mut self) {
        let now_ms = context::now().millis();
        let is_over = |active: &Active| active.fault.ends_ms() <= now_ms;
        let (ended, active): (Vec<Active>, Vec<Active>) =
            std::mem::take(&mut self.active).into_iter().partition(is_over);
        self.active = active;
        let mut changed = !ended.is_empty();
        for Active { fault, .. } in &ended {
            context::event(Kind::Fault, || format!("ends: {fault}"));
            self.end(fault);
        }
        while self.schedule.get(self.next_fault).is_some_and(|fault| fault.at_ms <= now_ms) {
            let fault = self.schedule[self.next_fault].clone();
            self.next_fault += 1;
            let leader = self.leader();
            self.active.push(Active { fault: fault.clone(), leader });
            context::event(Kind::Fault, || format!("begins: {fault}"));
            *self.faults_seen.entry(fault.kind.name()).or_default() += 1;
            self.begin(&fault);
            changed = true;
        }
        if changed {
            self.apply_conditions();
            self.note_trial();
        }
        self.reset_connections();
    }

    /// What a fault does once, when it begins.
    fn begin(&mut self, fault: &Fault) {
        match &fault.kind {
            FaultKind::Crash(place) => self.kill(self.machines.seat(*place), false),
            FaultKind::PowerCut(place) => self.kill(self.machines.seat(*place), true),
            FaultKind::PowerCutAll => {
                let seats: Vec<Seat> = self.machines.cluster_seats().collect();
                seats.into_iter().for_each(|seat| self.kill(seat, true));
            }
            FaultKind::DiskRot(replica) => {
                self.damage(*replica, |parts| _ = parts.disk.rot_item());
            }
            FaultKind::MarkRot(replica) => {
                let both = context::random_below(2) == 0;
                self.damage(*replica, |parts| parts.disk.rot_mark(both));
            }
            FaultKind::LostTail(replica) => {
                let items = 1 + context::random_below(LOST_ITEMS_MAX) as usize;
                self.damage(*replica, |parts| parts.disk.lose_tail(items));
            }
            FaultKind::SnapshotRot(replica) => self.damage(*replica, |parts| _ = parts.snapshots.rot()),
            FaultKind::StaleName(at, name, _) => {
                // What is connected goes on as it is: only who connects anew asks for the address.
                self.reset_between(Place::Replica(*at), Place::Replica(*name));
            }
            FaultKind::Twin(agent) => self.begin_twin(*agent),
            FaultKind::Flood(_) => {
                self.flooded_at = Some(context::now());
                self.flood();
            }
            kind => self.begin_change(kind),
        }
    }

    /// What a fault does once, when it is over.
    fn end(&mut self, fault: &Fault) {
        match &fault.kind {
            FaultKind::EmptyDirectory(replica) => self.replace(*replica),
            FaultKind::AddUsedId(_) => {
                let strays = std::mem::take(&mut self.machines.strays);
                strays.into_iter().for_each(|seat| self.lose(seat));
            }
            FaultKind::Twin(_) => {
                let twins = self.machines.twins.clone();
                twins.into_iter().for_each(|seat| self.lose(seat));
            }
            _ => {}
        }
    }

    /// The machine is gone for ever.
    pub(super) fn lose(&mut self, seat: Seat) {
        self.kill(seat, true);
        self.machines.all[seat].lost = true;
    }

    /// Rot is found at the next start only: the process dies with it.
    fn damage(&mut self, replica: Replica, damage: impl FnOnce(&ReplicaParts)) {
        let seat = self.machines.replicas[replica];
        self.kill(seat, false);
        damage(self.machines.member(replica));
    }

    /// Whoever leads in the latest term, and runs; the first if nobody does.
    pub(super) fn leader(&self) -> Replica {
        let leads = |running: &super::replica::RunningReplica| running.group.leading_term();
        let running = self.replicas().enumerate();
        let leading = running.filter_map(|(replica, (_, running))| Some((leads(&running?)?, replica)));
        leading.max().map_or(0, |(_, replica)| replica)
    }

    /// A fault is under way.
    pub fn disturbed(&self) -> bool {
        !self.active.is_empty()
    }

    /// An agent is paused.
    pub fn agents_stand_still(&self) -> bool {
        self.active.iter().any(|active| matches!(active.fault.kind, FaultKind::Pause(Place::Agent(_))))
    }

    fn reset_between(&self, a: Place, b: Place) {
        let hosts = [a, b].map(|place| self.machines.host_of(self.machines.seat(place)));
        let reset = self.network.reset_between(hosts[0], hosts[1]);
        context::event(Kind::Net, || format!("{reset} connections reset between {a} and {b}"));
    }

    fn reset_connections(&mut self) {
        let now = context::now();
        if now < self.next_reset {
            return;
        }
        self.next_reset = now + Duration::from_millis(RESETS_EVERY_MS);
        for active in &self.active {
            if let FaultKind::Resets(a, b) = active.fault.kind {
                self.reset_between(a, b);
            }
        }
    }

    /// Whether agents bear nothing now but a twin, or a flood and disks that are a little slow.
    fn note_trial(&mut self) {
        let borne = |kind: &FaultKind| match kind {
            FaultKind::Twin(_) => true,
            FaultKind::SlowDisks(ms) | FaultKind::Flood(ms) => *ms <= STEADY_SYNC_MS,
            _ => false,
        };
        let kinds = || self.active.iter().map(|active| &active.fault.kind);
        if !kinds().all(borne) {
            (self.flooded_at, self.trial) = (None, None);
            return;
        }
        let twin_of = kinds().find_map(|kind| match kind {
            FaultKind::Twin(agent) => Some(*agent as u32),
            _ => None,
        });
        let flooded = self.flooded_at.map(|at| at + FLOOD_BOUND);
        if twin_of.is_none() && flooded.is_none() {
            self.trial = None;
        } else if self.trial.is_none_or(|trial| trial.twin_of != twin_of || Some(trial.since) < flooded) {
            let since = flooded.unwrap_or_default().max(context::now());
            self.trial = Some(Trial { twin_of, since });
        }
    }

    /// Makes the world as the faults under way have it.
    pub(super) fn apply_conditions(&mut self) {
        let conditions = Conditions::of(&self.active, &self.machines);
        let hosts: Vec<HostId> = self.machines.all.iter().map(|machine| machine.host.id()).collect();
        for from in &hosts {
            for to in hosts.iter().filter(|to| *to != from) {
                let link = conditions.link(*from, *to);
                if self.network.link(*from, *to) != link {
                    self.network.set_link(*from, *to, link);
                }
            }
        }
        self.network.set_stale_names(conditions.stale_names.clone());
        self.l3.set_weather(None, conditions.l3);
        self.apply_to_disks(&conditions);
        for seat in 0..self.machines.all.len() {
            let machine = &mut self.machines.all[seat];
            machine.host.set_drift_ppm(conditions.drift_ppm.get(&seat).copied().unwrap_or(0));
            machine.host.set_paused(conditions.paused.contains_key(&seat));
            let down = conditions.down.contains_key(&seat);
            if down {
                machine.restart_at = None;
                if machine.host.runs() {
                    self.kill(seat, false);
                }
            } else if machine.restart_at.is_none() {
                self.boot(seat);
            }
        }
    }

    fn apply_to_disks(&self, conditions: &Conditions) {
        for (replica, seat) in self.machines.replicas.iter().enumerate() {
            let Role::Replica(parts) = &self.machines.all[*seat].role else { continue };
            let mut weather = conditions.disks.get(&replica).cloned().unwrap_or_default();
            let slow = weather.sync_us_max > 0;
            weather.sync_us_max = weather.sync_us_max.max(SYNC_US_MAX);
            weather.lies = match self.plan.seams.lies {
                Lies::Never => false,
                Lies::Always => true,
                Lies::AfterSlow => slow || parts.disk.weather().lies,
            };
            weather.believed = self.plan.seams.lies == Lies::AfterSlow;
            parts.disk.set_weather(weather);
            let full = conditions.snapshots_full.contains(&replica).then_some(DiskFault::NoSpace);
            parts.snapshots.set_weather(FilesWeather { fault: weather.fault.or(full), ..FilesWeather::default() });
        }
    }
}
