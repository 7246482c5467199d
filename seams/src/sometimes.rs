//! Markers: rare paths of the code that count each time they are taken, so that a simulator can prove that it reached
//! them.
//!
//! The counts belong to a thread. A simulation owns one thread, so the counts of all its hosts add up there, and
//! simulations that run side by side do not mix. In production nobody reads them, and the code never branches on a
//! count: a marked path does what it would do without its marker. One count costs about a nanosecond.

use std::cell::Cell;
use std::fmt;

macro_rules! markers {
    ($($(#[$doc:meta])* $marker:ident = $name:literal,)*) => {
        /// A path that a simulation should take at least once.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Marker {
            $($(#[$doc])* $marker,)*
        }

        impl Marker {
            /// Every marker, in the order of the enum.
            pub const ALL: [Self; [$(Self::$marker),*].len()] = [$(Self::$marker),*];

            /// The name in reports: the variant's, in kebab-case.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$marker => $name,)*
                }
            }
        }
    };
}

markers! {
    // Leaders and replicas.
    /// A replica took office as leader.
    ElectionWon = "election-won",
    /// A leader found that it leads no more.
    LeaderDeposed = "leader-deposed",
    /// A call between replicas was refused because it is for another one than the one it reached.
    MisaddressedCallRefused = "misaddressed-call-refused",
    /// An operator's call moved leadership to the replica that it named.
    LeadershipMoved = "leadership-moved",
    /// A leader whose disk is slow fell silent so that another one is elected.
    SlowLeaderYielded = "slow-leader-yielded",
    /// A replica that lost acknowledged entries refused to vote.
    VoteRefusedWhileRejoining = "vote-refused-while-rejoining",
    /// A replica that had lost acknowledged entries caught up and votes again.
    ReplicaRejoined = "replica-rejoined",
    /// A replica that rejoins heard from every other voter what it had promised.
    PromisesFound = "promises-found",
    /// A leader was turned away by a replica that did not know yet what it had promised.
    LeaderRefusedWhileRejoining = "leader-refused-while-rejoining",
    /// A new replica took the place of another in the group.
    ReplicaReplaced = "replica-replaced",
    /// Another replica's digest was equal to this one's at the same revision.
    DigestsAgreed = "digests-agreed",
    /// Most voters agreed on a state, and this replica held another.
    ReplicaDiverged = "replica-diverged",

    // The log, its mark and snapshots.
    /// Entries left the end of the log because another leader had other ones there.
    EntryTruncated = "entry-truncated",
    /// Entries left the start of the log because a snapshot covers them.
    LogPurged = "log-purged",
    /// A start found entries that a crash had kept from being purged.
    PurgeResumed = "purge-resumed",
    /// The log went on behind a snapshot that reached beyond its end.
    LogContinuedAfterSnapshot = "log-continued-after-snapshot",
    /// The log could not be written: the replica stopped accepting.
    LogWriteFailed = "log-write-failed",
    /// One half of a mark did not verify; the other one served.
    MarkHalfTorn = "mark-half-torn",
    /// The mark told that the log had lost acknowledged entries or a vote.
    MarkCaughtLoss = "mark-caught-loss",
    /// A log that could not be trusted was set aside: the replica starts empty.
    LogSetAside = "log-set-aside",
    /// A snapshot was built.
    SnapshotBuilt = "snapshot-built",
    /// A snapshot could not be written, or given its name: that is tried again.
    SnapshotFailed = "snapshot-failed",
    /// A snapshot's stream went on where an earlier one had broken.
    SnapshotTransferResumed = "snapshot-transfer-resumed",
    /// A snapshot did not reach the other replica whole.
    SnapshotTransferFailed = "snapshot-transfer-failed",
    /// A snapshot from the leader replaced a replica's state.
    SnapshotInstalled = "snapshot-installed",
    /// A start passed over a snapshot that does not verify.
    SnapshotPassedOver = "snapshot-passed-over",
    /// What the log was purged of is in no snapshot: the replica must rejoin empty.
    SnapshotLost = "snapshot-lost",

    // Proposals and reads of the group.
    /// A proposal was refused because the leader's queue is full.
    ProposalQueueFull = "proposal-queue-full",
    /// A proposal was answered with "nobody knows": its leader or term is no more.
    ProposalUnknown = "proposal-unknown",
    /// A proposal failed for want of a leader, or lost it on the way, and goes to whoever leads next.
    ProposalRetried = "proposal-retried",
    /// A leader replicated entries while its own disk was still at them.
    FlushedBesideReplication = "flushed-beside-replication",
    /// A follower asked the leader for the revision of a linearizable read.
    ReadIndexForwarded = "read-index-forwarded",
    /// A read gave up because its revision was not applied here in time.
    ReadAnsweredBehind = "read-answered-behind",

    // Sessions, as the group sees them.
    /// The leader found that a session's lease ran out.
    SessionExpired = "session-expired",
    /// An isolated leader was asked to renew a session.
    RenewalFoundNoQuorum = "renewal-found-no-quorum",
    /// Sessions were credited with time in which the leader did not run.
    LeasesCredited = "leases-credited",
    /// An agent asked for the name of another one that runs.
    NodeNameTaken = "node-name-taken",
    /// A session ended because its agent opened another.
    SessionSuperseded = "session-superseded",
    /// A session ended while it still held slots, to which a late write may go.
    SessionEndedHoldingSlots = "session-ended-holding-slots",
    /// A command of a session that had ended was refused.
    EndedSessionRefused = "ended-session-refused",
    /// A publish that was applied before came again, and was answered from the session's window.
    PublishReplayed = "publish-replayed",
    /// The same, and the one before had been applied under another leader.
    PublishReplayedAcrossLeaders = "publish-replayed-across-leaders",

    // Slots and pages, as the group sees them.
    /// A grant gave a slot that had been used before.
    SlotReused = "slot-reused",
    /// A grant gave nothing because L3 is full.
    GrantFoundNoRoom = "grant-found-no-room",
    /// A slot whose rest is over became free.
    SlotReleased = "slot-released",
    /// A leader's question which pages to evict waited until the policy had seen what was applied.
    EvictionAwaitedPolicy = "eviction-awaited-policy",
    /// The eviction policy did not keep up with what was applied, and started over from a view of the state.
    PolicyRebuiltAfterOverflow = "policy-rebuilt-after-overflow",
    /// A slot whose write has no known result was given back, to rest.
    UnknownWriteRested = "unknown-write-rested",
    /// A published page was there already: the first writer's location was the answer.
    PublishFoundExisting = "publish-found-existing",
    /// A page was not published because its namespace was cleared after its bytes came.
    PublishAfterClear = "publish-after-clear",
    /// A suspicion was void: the page is gone or elsewhere by now (its slot may have been reused), or its reporter is
    /// limited.
    SuspectVoid = "suspect-void",
    /// A suspicion was confirmed, and its page retired.
    SuspectConfirmed = "suspect-confirmed",
    /// The only agent's suspicion grew old, and its page was retired.
    SuspectRetiredAlone = "suspect-retired-alone",
    /// A cold page was evicted.
    PageEvicted = "page-evicted",
    /// A new leader did not evict yet, because it does not know what is hot.
    EvictionAwaitedHeat = "eviction-awaited-heat",
    /// A session reported heat to a leader that had not heard from it before.
    HeatReachedNewLeader = "heat-reached-new-leader",
    /// A namespace was cleared.
    NamespaceCleared = "namespace-cleared",
    /// A namespace was dropped.
    NamespaceDropped = "namespace-dropped",
    /// The last entry that clears had left was reclaimed.
    GarbageReclaimed = "garbage-reclaimed",

    // SGLang's page files.
    /// A call went to the leader through another replica.
    PageFileCallForwarded = "page-file-call-forwarded",
    /// A call found no leader that could decide it, and was tried again.
    PageFileCallRetried = "page-file-call-retried",
    /// A call came to a leader that had not applied an entry of its own term yet.
    PageFileOfficeNotOpen = "page-file-office-not-open",
    /// A decision that needs no entry was not answered, because this replica could not make sure that it still leads.
    PageFileLeadershipUnconfirmed = "page-file-leadership-unconfirmed",
    /// A new leader did not evict yet, because an earlier one may have told a reader of any page.
    PageFileEvictionAwaitedProtection = "page-file-eviction-awaited-protection",
    /// A page that was due to be evicted was passed over, because a reader was told of it.
    PageFileVictimProtected = "page-file-victim-protected",
    /// A reader was not told of a page, because a decision under way takes it away.
    PageFileReaderMetPick = "page-file-reader-met-pick",
    /// A key got no page.
    PageFileReserveFoundNoPage = "page-file-reserve-found-no-page",
    /// A reservation of which nothing was heard was found to end.
    PageFileReservationExpired = "page-file-reservation-expired",
    /// A page file was dropped.
    PageFileDropped = "page-file-dropped",
    /// A page file was made anew while pages of its earlier life rested.
    PageFileMadeAnewResting = "page-file-made-anew-resting",

    // Watch streams and mirrors.
    /// A watcher was behind the events that the replica keeps, and was told to resync.
    WatcherFellBehind = "watcher-fell-behind",
    /// A watcher was told to resync because its namespace was cleared.
    WatcherMetClear = "watcher-met-clear",
    /// A watcher took nothing for too long and was dropped.
    WatcherDroppedStuck = "watcher-dropped-stuck",
    /// A resync waited because a replica serves only so many at once.
    ResyncAwaitedTurn = "resync-awaited-turn",
    /// A mirror that lost its place had buckets equal to the replica's, which were not sent.
    ResyncByDigests = "resync-by-digests",
    /// A replica refused a watcher that had seen more than itself.
    WatchRefusedBehind = "watch-refused-behind",
    /// A mirror that had been synced was resynced.
    WatcherResynced = "watcher-resynced",
    /// A watcher left a replica that said nothing while the group had more.
    WatcherLeftStandstill = "watcher-left-standstill",
    WatchEndedAlone = "watch-ended-alone",
    NamespaceOpenedAlone = "namespace-opened-alone",
    /// A mirror was saved to local disk.
    MirrorSaved = "mirror-saved",
    /// A mirror began from what was saved on local disk.
    MirrorRestored = "mirror-restored",
    /// A saved mirror was damaged or of another namespace, and was not used.
    SavedMirrorRefused = "saved-mirror-refused",

    /// An agent closed a namespace because it was dropped.
    OpenNamespaceDropped = "open-namespace-dropped",

    // Puts, writes and publishes of an agent.
    /// A put was refused because too many pages are on their way already.
    PutRefusedForRoom = "put-refused-for-room",
    /// A page was refused because no slot came in time.
    PutRefusedL3Full = "put-refused-l3-full",
    /// A page was refused because no session that may write came in time.
    PutRefusedFenced = "put-refused-fenced",
    /// A put's call ended in the middle of a shard: nothing else was there of the page, and it was given up.
    PutAbandoned = "put-abandoned",
    /// Of two calls that waited for each other's room the later one gave way.
    PutGaveWay = "put-gave-way",
    /// A page was refused because the group did not answer.
    PublishExpired = "publish-expired",
    /// The shards of a page did not all come in time.
    GatherTimedOut = "gather-timed-out",
    /// Writes that had their slots were not submitted, because the agent had fenced itself meanwhile.
    WriteHeldBack = "write-held-back",
    /// An L3 write was under way while its session ended.
    SessionLostDuringWrite = "session-lost-during-write",
    /// An L3 write was given up at its deadline: its result is unknown.
    WriteDeadlinePassed = "write-deadline-passed",
    /// An L3 write completed after it was given up.
    WriteCompletedLate = "write-completed-late",
    /// A command of a session failed on the way and goes to another replica.
    CommandRetried = "command-retried",
    /// A written page was not published as far as is known, because its session ended.
    PublishFenced = "publish-fenced",
    /// A slot that was not needed went back to the agent's own pool, to be written again in the same generation.
    SlotGivenBack = "slot-given-back",

    // Gets and L3 reads of an agent.
    /// A page came from L1.
    L1Hit = "l1-hit",
    /// A page came from L3.
    L3Hit = "l3-hit",
    /// A read joined another's L3 read of the same page.
    ReadCoalesced = "read-coalesced",
    /// A get's own deadline came before its page.
    GetDeadlinePassed = "get-deadline-passed",
    /// An L3 read was given up at its deadline.
    ReadDeadlinePassed = "read-deadline-passed",
    /// An L3 read completed after it was given up.
    ReadCompletedLate = "read-completed-late",
    /// A read gave other bytes than the page's, and the index says by now that the page is gone from that slot.
    ReadMetReusedSlot = "read-met-reused-slot",
    /// A read gave other bytes than the page's, and a second one of the same slot gave the page.
    MismatchHealed = "mismatch-healed",
    /// A page that does not verify was reported to the group.
    SuspectReported = "suspect-reported",
    /// L3 failed too often: the breaker opened, or opened again after a probe.
    BreakerOpened = "breaker-opened",
    /// L3 would not give a page, twice: the agent avoids it for a while.
    PageUnreadable = "page-unreadable",
    /// A page that L3 would not give was read by a later try of the agent's own.
    UnreadableHealed = "unreadable-healed",
    /// One slab failed too often, and the others did not.
    SlabGivenUp = "slab-given-up",
    /// Lost completions held too much of an arena: a segment was replaced.
    SegmentReplaced = "segment-replaced",
    /// No frame was free for a page: it waited for one.
    FrameAwaited = "frame-awaited",
    /// No memory could be had for a segment of an arena.
    SegmentNotMade = "segment-not-made",
    /// A probe was answered: the breaker closed.
    BreakerClosed = "breaker-closed",
}

const MARKERS: usize = Marker::ALL.len();

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

thread_local! {
    static COUNTS: [Cell<u64>; MARKERS] = const { [const { Cell::new(0) }; MARKERS] };
}

/// Counts that this path was taken, on the current thread.
#[inline]
pub fn sometimes(marker: Marker) {
    COUNTS.with(|counts| {
        let count = &counts[marker as usize];
        count.set(count.get() + 1);
    });
}

/// How often the current thread took each path since its start or the last [`reset`].
pub fn counts() -> Counts {
    COUNTS.with(|counts| Counts(std::array::from_fn(|index| counts[index].get())))
}

/// Sets the counts of the current thread to 0: the next simulation begins on it.
pub fn reset() {
    COUNTS.with(|counts| counts.iter().for_each(|count| count.set(0)));
}

/// A count for each marker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts([u64; MARKERS]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; MARKERS])
    }
}

impl Counts {
    /// How often this path was taken.
    pub fn get(&self, marker: Marker) -> u64 {
        self.0[marker as usize]
    }

    /// Adds the counts of another simulation.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }

    /// All markers with their counts, in the order of [`Marker::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Marker, u64)> + '_ {
        Marker::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn kebab(variant: &str) -> String {
        let mut name = String::new();
        for letter in variant.chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    #[test]
    fn every_marker_is_at_its_place_with_a_name_of_its_own() {
        let names: BTreeSet<&str> = Marker::ALL.iter().map(|marker| marker.name()).collect();
        assert_eq!(names.len(), Marker::ALL.len());
        for (index, marker) in Marker::ALL.into_iter().enumerate() {
            assert_eq!(marker as usize, index);
            assert_eq!(marker.name(), kebab(&format!("{marker:?}")));
        }
    }

    #[test]
    fn a_thread_counts_for_itself_and_sums_add_up() {
        reset();
        sometimes(Marker::L1Hit);
        sometimes(Marker::L1Hit);
        sometimes(Marker::BreakerClosed);
        let elsewhere = std::thread::spawn(|| {
            sometimes(Marker::ElectionWon);
            counts()
        });
        let mut sum = counts();
        let own: Vec<_> = sum.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(own, [(Marker::L1Hit, 2), (Marker::BreakerClosed, 1)]);
        sum.add(&elsewhere.join().unwrap());
        sum.add(&counts());
        assert_eq!((sum.get(Marker::ElectionWon), sum.get(Marker::L1Hit)), (1, 4));
        reset();
        assert_eq!(counts(), Counts::default());
    }
}
