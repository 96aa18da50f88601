//! `random`: seeded random numbers, the baseline that every criterion must beat.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Context;
use crate::error::Result;

#[allow(clippy::unnecessary_wraps)] // the signature of every criterion
pub(super) fn random(context: &Context<'_, '_>) -> Result<Vec<Vec<f64>>> {
    let scores = context.groups.iter().enumerate().map(|(index, group)| {
        let mut random = ChaCha8Rng::seed_from_u64(context.seed);
        random.set_stream(index as u64);
        (0..group.size).map(|_| f64::from(random.next_u32()) / f64::from(u32::MAX)).collect()
    });
    Ok(scores.collect())
}
