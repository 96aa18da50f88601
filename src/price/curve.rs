//! What the output loses at every size of one part, from a few sizes that were measured and an error that is predicted at all.

/// What the network's output loses by a layer's squared error, `scale · error^power`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// The loss at an error of one.
    pub scale: f64,
    /// One where the loss is in proportion.
    pub power: f64,
}

/// Powers are kept within these where there is nothing to hold them: few samples say little.
const POWERS: std::ops::RangeInclusive<f64> = 0.5..=2.0;

impl Effect {
    /// In proportion.
    pub fn linear(scale: f64) -> Self {
        Self { scale, power: 1.0 }
    }

    /// Through measured `(error, loss)`, the first one exactly; `None` if that is no positive pair.
    pub(crate) fn through(points: &[(f64, f64)]) -> Option<Self> {
        let is_positive = |point: &&(f64, f64)| point.0 > 0.0 && point.1 > 0.0 && point.1.is_finite();
        let &(error, loss) = points.first().filter(is_positive)?;
        let other = points.get(1).filter(is_positive).filter(|other| other.0 > error);
        let power = other.map_or(1.0, |other| (other.1 / loss).ln() / (other.0 / error).ln());
        let power = power.clamp(*POWERS.start(), *POWERS.end());
        Some(Self { scale: loss / error.powf(power), power })
    }

    /// The loss at a squared error.
    pub fn at(self, error: f64) -> f64 {
        self.scale * error.powf(self.power)
    }
}

/// The loss at every number of units that are removed from a group: measured at some, `scale · error^power` between and
/// beyond them, the error being the criterion's prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Predicted error with this many units removed: rising, zero at first.
    errors: Vec<f64>,
    /// Units removed and the loss, both rising; at least one.
    points: Vec<(usize, f64)>,
}

/// A step of the predicted error, as a share of the whole: so that it always rises.
const LEAST_STEP: f64 = 1e-9;

/// Loss below which nothing is told apart.
const LEAST_LOSS: f64 = 1e-12;

impl Curve {
    /// From the scores of the units in the order in which they go, and the measured `(units removed, loss)`. `None` if nothing
    /// was measured, or a loss is not finite.
    pub(crate) fn new(scores: &[f64], measured: &[(usize, f64)]) -> Option<Self> {
        let total: f64 = scores.iter().copied().filter(|score| score.is_finite()).sum();
        let step = LEAST_STEP * if total > 0.0 { total } else { 1.0 };
        let mut errors = vec![0.0];
        let mut sum = 0.0;
        for score in scores {
            sum += if score.is_finite() { score.max(0.0) } else { 0.0 } + step;
            errors.push(sum);
        }
        let mut points = measured.to_vec();
        points.retain(|&(removed, _)| removed > 0 && removed <= scores.len());
        points.sort_by_key(|point| point.0);
        points.dedup_by_key(|point| point.0);
        if points.is_empty() || points.iter().any(|(_, loss)| !loss.is_finite()) {
            return None;
        }
        rising(&mut points);
        Some(Self { errors, points })
    }

    /// The losses times a factor.
    pub(crate) fn times(mut self, factor: f64) -> Self {
        self.points.iter_mut().for_each(|point| point.1 *= factor);
        self
    }

    /// A loss in proportion to the predicted error: one with all units removed.
    pub(crate) fn proportional(scores: &[f64]) -> Option<Self> {
        Self::new(scores, &[(scores.len(), 1.0)])
    }

    /// The loss with this many units removed.
    pub fn at(&self, removed: usize) -> f64 {
        if removed == 0 { 0.0 } else { self.at_error(self.error(removed)) }
    }

    /// The predicted error with this many units removed.
    fn error(&self, removed: usize) -> f64 {
        self.errors.get(removed).or(self.errors.last()).copied().unwrap_or(0.0)
    }

    /// The loss at an error that another selection of units leaves.
    pub(crate) fn at_error(&self, error: f64) -> f64 {
        if error <= 0.0 {
            return 0.0;
        }
        let pair = |index: usize| self.points.get(index).map(|&(removed, loss)| (self.error(removed), loss));
        let above = self.points.partition_point(|&(measured, _)| self.error(measured) < error);
        let through = |first: usize| {
            let pairs: Vec<(f64, f64)> = [pair(first), pair(first + 1)].into_iter().flatten().collect();
            Effect::through(&pairs).map(|effect| effect.at(error))
        };
        let found = match (above.checked_sub(1).and_then(pair), pair(above)) {
            (Some(low), Some(high)) => {
                // Between two points: through both, whatever the power.
                let share = (error / low.0).ln() / (high.0 / low.0).ln();
                Some(low.1 * (high.1 / low.1).powf(share.clamp(0.0, 1.0)))
            }
            (None, _) => through(0).map(|loss| loss.min(self.points[0].1)),
            (Some(last), None) => through(self.points.len().saturating_sub(2))
                .map(|loss| loss * self.scale_at_end())
                .map(|loss| loss.max(last.1)),
        };
        found.unwrap_or(0.0)
    }

    /// What makes the extrapolation go through the last point too, where its power was out of bounds.
    fn scale_at_end(&self) -> f64 {
        let [.., first, last] = self.points[..] else { return 1.0 };
        let pairs = [(self.error(first.0), first.1), (self.error(last.0), last.1)];
        Effect::through(&pairs).map_or(1.0, |effect| last.1 / effect.at(pairs[1].0))
    }

    /// What was measured: units removed and the loss, made to rise.
    pub fn points(&self) -> &[(usize, f64)] {
        &self.points
    }
}

/// The nearest rising sequence (pool adjacent violators), each value positive.
fn rising(points: &mut [(usize, f64)]) {
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for &(_, loss) in points.iter() {
        let mut pool = (loss.max(LEAST_LOSS), 1);
        while let Some(&(mean, count)) = pools.last() {
            if mean <= pool.0 {
                break;
            }
            pools.pop();
            pool = ((mean * count as f64 + pool.0 * pool.1 as f64) / (count + pool.1) as f64, count + pool.1);
        }
        pools.push(pool);
    }
    let values = pools.into_iter().flat_map(|(mean, count)| std::iter::repeat_n(mean, count));
    points.iter_mut().zip(values).for_each(|(point, value)| point.1 = value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_effect_goes_through_what_was_measured() {
        let effect = Effect::through(&[(0.1, 0.02), (0.2, 0.06)]).unwrap();
        assert!((effect.power - 3.0_f64.log2()).abs() < 1e-12);
        assert!((effect.at(0.1) - 0.02).abs() < 1e-12 && (effect.at(0.2) - 0.06).abs() < 1e-12);
        let steep = Effect::through(&[(0.1, 0.01), (0.2, 1.0)]).unwrap();
        assert_eq!(steep.power, 2.0);
        assert!((steep.at(0.1) - 0.01).abs() < 1e-12);
    }

    #[test]
    fn one_measured_point_is_a_proportion() {
        for points in [&[(0.5, 0.1)][..], &[(0.5, 0.1), (0.5, 0.3)], &[(0.5, 0.1), (0.9, f64::NAN)]] {
            assert_eq!(Effect::through(points), Some(Effect::linear(0.2)));
        }
        assert_eq!(Effect::through(&[(0.0, 0.0), (0.5, 0.1)]), None);
        assert_eq!(Effect::through(&[(0.5, f64::NAN)]), None);
    }

    #[test]
    fn a_curve_goes_through_what_was_measured_and_never_falls() {
        let scores: Vec<f64> = (0..16).map(|unit| f64::from(unit * unit)).collect();
        let measured = [(4, 0.01), (8, 0.2), (12, 0.9)];
        let curve = Curve::new(&scores, &measured).unwrap();
        for (removed, loss) in measured {
            assert!((curve.at(removed) - loss).abs() < 1e-12, "{removed}: {}", curve.at(removed));
        }
        let all: Vec<f64> = (0..=16).map(|removed| curve.at(removed)).collect();
        assert!(all[0] == 0.0 && all[1] > 0.0 && all[16] > all[12]);
        assert!(all.windows(2).all(|pair| pair[0] <= pair[1]), "{all:?}");
    }

    /// Units that look free only because there were fewer rows than inputs: what was measured counts.
    #[test]
    fn units_that_look_free_cost_what_was_measured() {
        let curve = Curve::new(&[0.0; 8], &[(2, 0.1), (4, 0.4)]).unwrap();
        assert!((curve.at(2) - 0.1).abs() < 1e-12 && (curve.at(4) - 0.4).abs() < 1e-12);
        assert!(curve.at(1) > 0.01 && curve.at(8) > 0.8);
    }

    #[test]
    fn losses_that_fall_are_pooled() {
        let curve = Curve::new(&[1.0; 8], &[(2, 0.3), (4, 0.1), (6, 0.5)]).unwrap();
        assert_eq!(curve.points(), &[(2, 0.2), (4, 0.2), (6, 0.5)]);
        assert_eq!(Curve::new(&[1.0; 8], &[(2, f64::NAN)]), None);
        assert_eq!(Curve::new(&[1.0; 8], &[]), None);
    }
}
