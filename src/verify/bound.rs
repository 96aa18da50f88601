//! Exact bounds on what a rewrite loses, from how it answers the same samples as the original.
//!
//! Of n samples, b are answered rightly by the original only, and c by the rewritten model only. The loss of accuracy is
//! p_b − p_c for the probabilities of the two. Clopper and Pearson (1934) bound p_b from above and p_c from below, each
//! with half of the error that is allowed, so the difference of the two bounds holds whatever the probabilities are.
//! Agreement with the original has no c: the bound is then that of Clopper and Pearson alone.

use serde::{Deserialize, Serialize};

/// Halvings of an interval: more than a float64 has digits.
const HALVINGS: usize = 60;

/// How two models answer the same samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pairs {
    /// Number of samples.
    pub samples: usize,
    /// Samples that only the original answers rightly or, without labels, that the two answer differently.
    pub lost: usize,
    /// Samples that only the rewritten model answers rightly; `None` without labels.
    pub gained: Option<usize>,
}

impl Pairs {
    /// The share that is lost on these samples.
    pub fn share(&self) -> f64 {
        (self.lost as f64 - self.gained.unwrap_or(0) as f64) / self.samples.max(1) as f64
    }

    /// What is lost at most on all samples like these, with this probability of error.
    pub fn at_most(&self, error: f64) -> f64 {
        match self.gained {
            None => upper(self.lost, self.samples, error),
            Some(gained) => upper(self.lost, self.samples, error / 2.0) - lower(gained, self.samples, error / 2.0),
        }
    }

    /// What is lost at least on all samples like these, with this probability of error.
    pub fn at_least(&self, error: f64) -> f64 {
        match self.gained {
            None => lower(self.lost, self.samples, error),
            Some(gained) => lower(self.lost, self.samples, error / 2.0) - upper(gained, self.samples, error / 2.0),
        }
    }

    /// The same shares of more samples.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a share of the samples
    fn scaled(&self, samples: usize) -> Self {
        let scale = samples as f64 / self.samples.max(1) as f64;
        let of = |count: usize| (count as f64 * scale).round() as usize;
        Self { samples, lost: of(self.lost).min(samples), gained: self.gained.map(|gained| of(gained).min(samples)) }
    }

    /// How many samples with the same shares would bound the loss by `wanted`; `None` if no number of them would.
    pub fn needed(&self, wanted: f64, error: f64) -> Option<usize> {
        // However many there are, the bound stays above the share itself.
        if self.share() >= wanted {
            return None;
        }
        let fits = |samples: usize| self.scaled(samples).at_most(error) <= wanted;
        let mut most = self.samples.max(1);
        while !fits(most) {
            most = most.checked_mul(2).filter(|&most| most < 1 << 24)?;
        }
        let mut least = if most == self.samples.max(1) { 0 } else { most / 2 };
        while most - least > 1 {
            let middle = usize::midpoint(least, most);
            if fits(middle) { most = middle } else { least = middle }
        }
        Some(most)
    }
}

/// The largest probability of an event under which it is seen at most `count` times in `samples` with probability
/// `error` or more.
fn upper(count: usize, samples: usize, error: f64) -> f64 {
    if count >= samples {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(low, high);
        if cumulative(count, samples, middle) > error { low = middle } else { high = middle }
    }
    high
}

/// The smallest probability of an event under which it is seen at least `count` times with probability `error` or more.
fn lower(count: usize, samples: usize, error: f64) -> f64 {
    1.0 - upper(samples - count.min(samples), samples, error)
}

/// Probability that an event of this probability is seen at most `count` times in `samples`.
fn cumulative(count: usize, samples: usize, probability: f64) -> f64 {
    if probability <= 0.0 {
        return 1.0;
    }
    if probability >= 1.0 {
        return 0.0;
    }
    let (n, k) = (samples as f64, count as f64);
    let choices = libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0);
    let mut log = choices + k * probability.ln() + (n - k) * (-probability).ln_1p();
    let (mut sum, odds) = (log.exp(), (-probability).ln_1p() - probability.ln());
    for i in (1..=count).rev() {
        // From one count to the one below it.
        let i = i as f64;
        let step = i.ln() - (n - i + 1.0).ln() + odds;
        log += step;
        sum += log.exp();
        if step < 0.0 && log < sum.ln() - 50.0 {
            break;
        }
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Two-sided 95 % intervals of Clopper and Pearson as tables give them.
    #[test]
    fn bounds_are_those_of_the_tables() {
        for (count, samples, low, high) in [
            (0, 10, 0.0, 0.3085),
            (1, 10, 0.0025, 0.4450),
            (5, 10, 0.1871, 0.8129),
            (10, 10, 0.6915, 1.0),
            (10, 100, 0.0490, 0.1762),
        ] {
            let found = (lower(count, samples, 0.025), upper(count, samples, 0.025));
            assert!((found.0 - low).abs() < 1e-4 && (found.1 - high).abs() < 1e-4, "{count} of {samples}: {found:?}");
        }
        // The rule of three, and a large number of samples.
        let none = Pairs { samples: 100_000, lost: 0, gained: None };
        assert!((none.at_most(0.05) - 2.9957e-5).abs() < 1e-8);
        let half = upper(50_000, 100_000, 0.025);
        assert!((half - 0.5031).abs() < 1e-4, "{half}");
    }

    /// In a thousand simulated cases of every kind, the true loss exceeds the bound in at most one of twenty.
    #[test]
    fn the_bound_is_a_bound() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        for (p_lost, p_gained, samples, has_labels) in [
            (0.02, 0.01, 1200, true),
            (0.005, 0.005, 240, true),
            (0.1, 0.02, 100, true),
            (0.0, 0.03, 500, true),
            (0.01, 0.0, 1200, false),
        ] {
            let mut exceeded = 0;
            let mut margin = 0.0;
            for _ in 0..1000 {
                let mut pairs = Pairs { samples, lost: 0, gained: has_labels.then_some(0) };
                for _ in 0..samples {
                    let drawn: f64 = random.random();
                    if drawn < p_lost {
                        pairs.lost += 1;
                    } else if drawn < p_lost + p_gained {
                        pairs.gained = pairs.gained.map(|gained| gained + 1);
                    }
                }
                let bound = pairs.at_most(0.05);
                exceeded += usize::from(p_lost - p_gained > bound);
                margin += (bound - (p_lost - p_gained)) / 1000.0;
            }
            assert!(exceeded <= 50, "{p_lost} {p_gained} {samples}: {exceeded} of 1000");
            assert!(
                margin
                    < 6.0 / (samples as f64).sqrt() * f64::max(p_lost + p_gained, 0.01).sqrt() + 3.0 / samples as f64,
                "{margin}"
            );
        }
    }

    #[test]
    fn more_samples_bound_more_tightly() {
        let pairs = Pairs { samples: 1200, lost: 6, gained: Some(3) };
        let bound = pairs.at_most(0.05);
        let needed = pairs.needed(pairs.share() + (bound - pairs.share()) / 2.0, 0.05).unwrap();
        assert!((2400..9600).contains(&needed), "{needed}");
        assert_eq!(pairs.needed(0.001, 0.05), None);
        let none = Pairs { samples: 100, lost: 0, gained: None };
        assert_eq!(none.needed(0.01, 0.05), Some(299));
    }
}
