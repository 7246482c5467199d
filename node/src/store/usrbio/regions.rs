//! The arena's segments as memory that the daemon has mapped: L3 reads land where L1 serves them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use foreword_usrbio::{IovId, LinkKind, LinkName, Mapping, ShmFile};
use parking_lot::RwLock;

use super::attachment::{Attachment, Witness};
use super::client::RegionPass;
use super::mount::UsrbioMount;
use super::shm;
use crate::arena::{Region, RegionMemory, RegionProvider};

/// How long the daemon may take to map a region.
const LINK_PATIENCE: Duration = Duration::from_secs(10);

/// Makes regions that are registered with a mount's daemon.
pub struct UsrbioRegions(Arc<UsrbioMount>);

impl UsrbioRegions {
    pub fn new(mount: Arc<UsrbioMount>) -> Self {
        Self(mount)
    }
}

impl RegionProvider for UsrbioRegions {
    /// Takes `arena_bytes` of /dev/shm at once, so that a too small one is an error at start. Blocks while it is
    /// zeroed.
    fn reserve(&self, arena_bytes: u64) -> io::Result<()> {
        self.0.reserve.lock().add(arena_bytes)
    }

    /// Blocks while the memory is zeroed and the daemon maps it. Errors: no room in /dev/shm, a dead or hung daemon.
    fn region(&self, bytes: u64) -> io::Result<Region> {
        let mount = &self.0;
        let attachment = mount.living_attachment()?;
        let loan = Loan { lent_bytes: mount.reserve.lock().lend(bytes), mount: mount.clone() };
        let file = shm::create(bytes)?;
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        let mapping = file.map(length)?;
        // A region that comes too late is dropped there, with its link.
        let made =
            mount.registrar().call(LINK_PATIENCE, move || ShmRegion::link(&attachment, file, mapping, loan))??;
        Ok(Region::new(made))
    }
}

/// What I/Os need to know of a region; it outlives the memory.
pub(super) struct RegionTicket {
    pub(super) pass: RegionPass,
    /// In which the daemon mapped it.
    pub(super) epoch: u64,
    released: AtomicBool,
}

impl RegionTicket {
    pub(super) fn new(pass: RegionPass, epoch: u64) -> Self {
        Self { pass, epoch, released: AtomicBool::new(false) }
    }

    /// Notes whether the daemon has it no more.
    pub(super) fn set_released(&self, released: bool) {
        self.released.store(released, Ordering::Release);
    }

    /// True once the daemon is known to have it no more: no late I/O can reach its frames.
    pub(super) fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }
}

/// The regions that exist.
#[derive(Default)]
pub(super) struct Registry(RwLock<BTreeMap<[u8; 16], Arc<RegionTicket>>>);

impl Registry {
    /// The region of this name, if it is registered in this epoch.
    pub(super) fn ticket(&self, name: [u8; 16], epoch: u64) -> Option<Arc<RegionTicket>> {
        let regions = self.0.read();
        regions.get(&name).filter(|ticket| ticket.epoch == epoch).cloned()
    }

    /// Notes that the daemon has the regions of this epoch no more.
    pub(super) fn release(&self, epoch: u64) {
        let regions = self.0.read();
        regions.values().filter(|ticket| ticket.epoch == epoch).for_each(|ticket| ticket.set_released(true));
    }
}

/// A registered region's memory. Its name in /dev/shm is gone: the memory ends with its mappings.
struct ShmRegion {
    ticket: Arc<RegionTicket>,
    attachment: Arc<Attachment>,
    /// Taken on drop.
    memory: Option<(Mapping, ShmFile)>,
    loan: Option<Loan>,
    _witness: Arc<Witness>,
    base: NonNull<u8>,
    bytes: usize,
}

impl ShmRegion {
    /// Has the daemon map the file. On the registrar only.
    fn link(attachment: &Arc<Attachment>, mut file: ShmFile, mapping: Mapping, loan: Loan) -> io::Result<Self> {
        let id = shm::random_id();
        let (base, bytes) = (mapping.base(), mapping.bytes());
        let witness = attachment.witness()?;
        let pass = loan.mount.client().wrap(attachment, id, base.as_ptr().expose_provenance(), bytes as u64)?;
        attachment.link(&data_link(id), &file.path())?;
        // The daemon has mapped it: nobody else needs the name, and a killed process leaves none.
        file.unlink();
        let ticket = Arc::new(RegionTicket::new(pass, attachment.epoch()));
        loan.mount.regions.0.write().insert(id.0, ticket.clone());
        let (attachment, memory) = (attachment.clone(), Some((mapping, file)));
        Ok(Self { ticket, attachment, memory, loan: Some(loan), _witness: witness, base, bytes })
    }
}

fn data_link(id: IovId) -> LinkName {
    LinkName { id, kind: LinkKind::Data { block_bytes: 0 } }
}

// SAFETY: the mapping is page-aligned, shared, writable and kept until drop; a fresh file in /dev/shm is zeros. In this
// process only the frames' owners touch it; the file is ours alone (0600, its name gone), so other processes are the
// daemon, which reads and writes for I/Os, each of which owns its frame until the daemon is known to be done with it,
// and engines, which only read.
unsafe impl RegionMemory for ShmRegion {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.memory.as_ref().map(|(_, file)| file.as_fd())
    }

    fn name(&self) -> Option<[u8; 16]> {
        Some(self.ticket.pass.id.0)
    }
}

impl Drop for ShmRegion {
    fn drop(&mut self) {
        let id = self.ticket.pass.id;
        let Some(loan) = self.loan.take() else { return };
        loan.mount.regions.0.write().remove(&id.0);
        drop(self.memory.take());
        let attachment = self.attachment.clone();
        // The daemon holds the memory until the link is gone: only then is there room to reserve again.
        self.attachment.registrar().post(move || {
            attachment.unlink(&data_link(id));
            drop(loan);
        });
    }
}

// SAFETY: the address in `base` is that of the mapping, which is Send and Sync; who may touch which bytes is the
// frames' business.
unsafe impl Send for ShmRegion {}
// SAFETY: as above.
unsafe impl Sync for ShmRegion {}

/// Room taken from the reserve; dropping it gives the room back, as far as it is there.
struct Loan {
    lent_bytes: u64,
    mount: Arc<UsrbioMount>,
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut reserve = self.mount.reserve.lock();
        reserve.give_back(self.lent_bytes);
        reserve.refill();
    }
}
