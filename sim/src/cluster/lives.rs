//! How a cluster's processes begin and end, and how its world moves on.

use futures::future::BoxFuture;

use super::machines::Role;
use super::{Cluster, QUANTUM, RESTART, Seat};
use crate::world::context::{self, Kind};

impl Cluster {
    /// Moves the world on by one quantum.
    pub fn step(&mut self) {
        context::set_now(context::now() + QUANTUM);
        self.change_faults();
        self.restart_ended();
        self.network.deliver();
        self.l3.advance();
        for machine in &mut self.machines.all {
            machine.host.step(QUANTUM);
        }
    }

    pub(super) fn boot(&mut self, seat: Seat) {
        let machine = &mut self.machines.all[seat];
        if machine.lost || machine.host.runs() {
            return;
        }
        machine.restart_at = None;
        self.network.power_on(machine.host.id());
        let incarnation = machine.host.incarnation() + 1;
        let ended = machine.ended.clone();
        let life: BoxFuture<'static, String> = match &machine.role {
            Role::Replica(parts) => Box::pin((**parts).clone().run(incarnation)),
            Role::Agent(parts) => Box::pin((**parts).clone().run(incarnation)),
            Role::Clients => Box::pin(std::future::pending()),
        };
        machine.host.boot(async move {
            let reason = life.await;
            *ended.lock() = Some(reason);
        });
    }

    /// The process is gone; `power`: and the machine's power with it.
    pub(super) fn kill(&mut self, seat: Seat, power: bool) {
        let machine = &mut self.machines.all[seat];
        self.network.process_gone(machine.host.id(), !power);
        match &machine.role {
            Role::Replica(parts) => {
                *parts.running.lock() = None;
                if power {
                    parts.disk.crash();
                }
                parts.snapshots.crash();
            }
            Role::Agent(parts) => {
                *parts.running.lock() = None;
                parts.files.crash();
            }
            Role::Clients => {}
        }
        machine.host.kill();
        *machine.ended.lock() = None;
        machine.restart_at = None;
    }

    fn restart_ended(&mut self) {
        let now = context::now();
        for seat in 0..self.machines.all.len() {
            let machine = &mut self.machines.all[seat];
            let reason = machine.ended.lock().take();
            if let Some(reason) = reason {
                context::event(Kind::Host, || format!("{} ended: {reason}", machine.host.name()));
                self.kill(seat, false);
                self.machines.all[seat].restart_at = Some(now + RESTART);
            } else if machine.restart_at.is_some_and(|at| at <= now) {
                self.boot(seat);
            }
        }
    }
}
