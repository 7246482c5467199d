//! The mark of one replica: what is there, what is being stored, and what of it is only said to be durable.

use std::io;

use foreword_meta::storage::MarkFile;
use foreword_meta::storage::mark::{MARK_BYTES, MARK_HALF_BYTES};
use futures::future::BoxFuture;

use super::{Disk, Op, context, crashed, pause};

/// Bytes of a half that its record takes: cuts there are the ones that matter.
const RECORD_BYTES: u64 = 57;

type Half = [u8; MARK_HALF_BYTES];

/// The mark's file on the medium.
#[derive(Debug, Clone)]
pub(super) struct MarkImage {
    bytes: [u8; MARK_BYTES],
    /// What a crash leaves of it, where that differs: the disk has lied.
    durable: Option<Box<[u8; MARK_BYTES]>>,
    storing: Option<(usize, Half)>,
    /// What was stored last may not be readable.
    pub(super) rotten: bool,
    /// The log lost its end since: only what was stored last says so.
    pub(super) tail_lost: bool,
}

impl Default for MarkImage {
    fn default() -> Self {
        Self { bytes: [0; MARK_BYTES], durable: None, storing: None, rotten: false, tail_lost: false }
    }
}

impl MarkImage {
    fn half(&mut self, half: usize) -> &mut [u8] {
        &mut self.bytes[half * MARK_HALF_BYTES..][..MARK_HALF_BYTES]
    }

    /// What is being stored is there.
    pub(super) fn finish(&mut self) {
        if let Some((half, bytes)) = self.storing.take() {
            self.half(half).copy_from_slice(&bytes);
        }
    }

    /// What is being stored stops anywhere. True when it left a mixture.
    fn interrupt(&mut self) -> bool {
        let Some((half, bytes)) = self.storing.take() else { return false };
        let cut = match context::random_below(6) {
            0 => 0,
            1 => MARK_HALF_BYTES as u64,
            2 | 3 => context::random_below(RECORD_BYTES),
            _ => context::random_below(MARK_HALF_BYTES as u64),
        } as usize;
        // Sectors reach the medium in any order.
        let written = if context::random_below(2) == 0 { 0..cut } else { cut..MARK_HALF_BYTES };
        let before = self.half(half).to_vec();
        self.half(half)[written.clone()].copy_from_slice(&bytes[written]);
        self.half(half) != before && self.half(half) != bytes
    }

    /// Power is gone. True when that tore a half.
    pub(super) fn crash(&mut self) -> bool {
        let torn = self.interrupt();
        if let Some(durable) = self.durable.take() {
            self.bytes = *durable;
            return false;
        }
        torn
    }

    /// A bit of a half's record flips, on the medium.
    pub(super) fn rot(&mut self, half: usize) {
        self.rotten = true;
        let bit = context::random_below(RECORD_BYTES * 8);
        let (at, mask) = (half * MARK_HALF_BYTES + (bit / 8) as usize, 1 << (bit % 8));
        self.bytes[at] ^= mask;
        if let Some(durable) = &mut self.durable {
            durable[at] ^= mask;
        }
    }
}

pub(super) struct SimMark {
    pub(super) disk: Disk,
    pub(super) process: u64,
}

impl SimMark {
    fn with<T>(&self, work: impl FnOnce(&mut MarkImage) -> T) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        if state.process != self.process {
            return Err(crashed());
        }
        Ok(work(&mut state.mark))
    }

    fn store_fault(&self) -> io::Result<()> {
        let Err(error) = self.disk.fault(false) else { return Ok(()) };
        let torn = self.with(MarkImage::interrupt)?;
        self.disk.state.lock().counts.torn_marks += u64::from(torn);
        Err(error)
    }

    fn stored(&self) -> io::Result<()> {
        let lies = self.disk.lies();
        self.with(|mark| {
            if !lies {
                mark.durable = None;
            } else if mark.durable.is_none() {
                mark.durable = Some(Box::new(mark.bytes));
            }
            mark.finish();
            (mark.rotten, mark.tail_lost) = (false, false);
        })
    }
}

impl MarkFile for SimMark {
    fn load(&mut self) -> io::Result<Option<[u8; MARK_BYTES]>> {
        let bytes = self.with(|mark| mark.bytes)?;
        self.disk.digest(Op::MarkLoaded, &[], &bytes);
        Ok(Some(bytes))
    }

    fn store(&mut self, half: usize, bytes: Half) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            self.with(|mark| mark.storing = Some((half, bytes)))?;
            let time = self.disk.draw_sync_time();
            self.disk.digest(Op::MarkBegins, &[half as u64, time.as_micros() as u64], &bytes[..RECORD_BYTES as usize]);
            pause(time).await;
            self.store_fault()?;
            self.stored()?;
            self.disk.digest(Op::MarkStored, &[half as u64], &[]);
            Ok(())
        })
    }
}
