//! Randomness as an input: ids and jitter.

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// A source of random numbers.
pub trait Entropy: Send + Sync {
    /// 64 random bits.
    fn u64(&self) -> u64;

    /// A number in `0..below`; `below` is at least 1.
    fn below(&self, below: u64) -> u64 {
        assert!(below > 0, "an empty range has no member to draw");
        ((u128::from(self.u64()) * u128::from(below)) >> 64) as u64
    }

    /// 128 random bits.
    fn bytes16(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.u64().to_le_bytes());
        bytes[8..].copy_from_slice(&self.u64().to_le_bytes());
        bytes
    }
}

/// The operating system's randomness.
#[derive(Debug, Default, Clone, Copy)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn u64(&self) -> u64 {
        rand::rngs::OsRng.next_u64()
    }
}

/// A reproducible sequence.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<StdRng>);

impl SeededEntropy {
    /// The sequence of this seed.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn u64(&self) -> u64 {
        self.0.lock().next_u64()
    }
}
