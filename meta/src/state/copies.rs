//! What a change copies because a frozen view shares it, copied ahead of it: those who wait while the state changes do
//! not wait for that as well.

use std::collections::BTreeMap;

use foreword_proto::records::{PageRecord, Record};
use foreword_proto::{EntryKey, NamespaceId, SlabId, Slot, SlotRef};

use super::State;
use super::command::{Command, SessionOperation};
use super::pages::PageCopies;
use super::room::SlotCopies;

/// Copies for some commands, to be put in before these are applied and with nothing applied in between.
#[derive(Debug)]
pub struct Copies {
    pages: PageCopies,
    slots: SlotCopies,
}

impl Copies {
    /// Nothing of it is shared.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.slots.is_empty()
    }
}

/// The pages and slots that commands name.
#[derive(Debug, Default)]
struct Named {
    keys: BTreeMap<NamespaceId, Vec<EntryKey>>,
    slots: BTreeMap<SlabId, Vec<Slot>>,
}

impl Named {
    fn key(&mut self, namespace: NamespaceId, key: EntryKey) {
        self.keys.entry(namespace).or_default().push(key);
    }

    fn slot(&mut self, slot: SlotRef) {
        self.slots.entry(slot.slab).or_default().push(slot.slot);
    }
}

impl State {
    /// Copies what these commands change and a frozen view shares. Commands that change little are left out: they copy
    /// it themselves.
    pub fn copies_for(&self, commands: &[Command]) -> Copies {
        let mut named = Named::default();
        commands.iter().for_each(|command| self.name(command, &mut named));
        Copies { pages: self.pages.copies_for(named.keys), slots: self.room.copies_for(named.slots) }
    }

    /// Puts in copies that were made of this very state.
    pub fn put_copies(&mut self, copies: Copies) {
        self.pages.put_copies(copies.pages);
        self.room.put_copies(copies.slots);
    }

    fn name(&self, command: &Command, named: &mut Named) {
        match command {
            Command::Session { operation: SessionOperation::Publish { namespace, pages, .. }, .. } => {
                let Some(shards) = self.namespace(*namespace).map(|info| info.shards()) else { return };
                for mut record in pages.chunks_exact(PageRecord::bytes(shards)) {
                    let Some(page) = PageRecord::take(&mut record, shards) else { continue };
                    named.key(*namespace, page.key);
                    named.slot(page.location.slot);
                }
            }
            Command::Retire { entries, .. } => {
                for entry in entries {
                    named.key(entry.namespace, entry.key);
                    named.slot(entry.slot);
                }
            }
            Command::Delete { namespace, keys } => {
                for key in keys {
                    named.key(*namespace, *key);
                    self.location(*namespace, key).into_iter().for_each(|found| named.slot(found.slot));
                }
            }
            _ => {}
        }
    }
}
